"""What the commands share: exit status, image flags, reading models."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable

from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.datasets.tfds import PREFIX, check_name
from keras_effnet.interruption import run_command
from keras_effnet.litert.ops import ConversionError
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import NETWORKS
from tflite.evaluation.user_metric import UserMetric
from tflite.images.loader import Arrays, open_source

IMAGES = (
    "folder of images, folder with one folder per class, folder of TFRecord shards, tfds:NAME, CSV "
    "or JSON manifest, or .npz (images, labels)"
)
TRAINING_IMAGES = f"{IMAGES}; of data with splits, the training images"
EVALUATION_IMAGES = (
    f"{IMAGES}; of data with splits, the validation images, else the test images. FOLDER/SPLIT and "
    "tfds:NAME/SPLIT name one"
)
MODULE = (
    "Python file (my_layers.py) or module (package.module) that is imported before the Keras file "
    "is loaded: it defines the file's custom layers and functions"
)
METRIC = (
    "your own metric as module:function or my_metric.py:function: function (float32 outputs, "
    "labels) -> a number, or one for each image; it drives the quantization steps. Higher is "
    "better, unless function.lower_is_better is True"
)
MODELS = ".keras, .h5 or float32 .tflite file, or SavedModel folder"
LABELS = "text file with one class name per line, in the order of the scores"


def exit_status(name: str, command: Callable[[], int]) -> int:
    """Runs a command; returns its exit status, 2 for bad input, 1 for a failed conversion, 75 after
    Ctrl-C, 143 after SIGTERM. Prints an error as one line.
    """

    def run():
        try:
            return command()
        except BrokenPipeError:
            raise  # nobody reads the output
        except (ValueError, OSError, ImportError) as error:
            message, status = error, 2
        except ConversionError as error:
            message, status = error, 1
        print(f"{name}: {message}", file=sys.stderr)
        return status

    return run_command(name, run)


def open_images(
    flag: str, source: str | None, *, evaluation: bool = False
) -> LabeledImages | Arrays | str | None:
    """The images that a flag names, for ``load_images``: opened, but not decoded.

    A TensorFlow Dataset is not opened yet, since that may download it. Raises ``ValueError`` if the
    images do not exist, or are none.
    """
    if source is None:
        return None
    try:
        if source.startswith(PREFIX):
            check_name(source)
            return source
        return open_source(source, evaluation=evaluation)
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from error


def require_file(argument: str, path: str, endings: str) -> None:
    """Raises ``ValueError`` unless the path in an argument is a file; suggests the endings."""
    if not os.path.isfile(path):
        raise ValueError(f"{argument} {path!r} is not a file; give a {endings} file")


def check_model_path(argument: str, path: str) -> None:
    """Raises ``ValueError`` for a path that is not that of a model, with the way to one."""
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return
    if os.path.isdir(path):
        inside = [name for name in sorted(os.listdir(path)) if name.endswith(".keras")]
        raise ValueError(
            f"{argument} {path!r} is not a file but a folder without a saved_model.pb; give "
            + (os.path.join(path, inside[0]) if inside else "a .keras, .h5 or .tflite file")
        )
    if path in NETWORKS and not os.path.exists(path):
        raise ValueError(
            f"{argument} {path!r} is the name of a network, not a file: give the file that "
            f"keras_effnet.create_model({path!r}, weights='auto').save('{path}.keras') writes"
        )
    require_file(argument, path, ".keras, .h5 or .tflite")
    hint = {
        ".pb": "the folder of the SavedModel",
        ".pth": "a .keras file, which effnet port writes from it",
        ".pt": "a .keras file, which effnet port writes from it",
        ".safetensors": "a .keras file, which effnet port writes from it",
    }.get(os.path.splitext(path)[1].lower())
    if path.lower().endswith(".weights.h5"):
        hint = "the .keras file of the whole model: this file has weights only"
    if hint is not None:
        raise ValueError(f"{argument} {path!r} cannot be converted: give {hint}")
    if os.path.splitext(path)[1] not in (".keras", ".h5", ".hdf5", ".tflite", ".json"):
        raise ValueError(
            f"{argument} {path!r} is not a .keras, .h5 or .tflite file by its name, nor the folder "
            "of a SavedModel"
        )


def read_tflite(argument: str, path: str, endings: str = ".tflite") -> bytes:
    """The bytes of the .tflite file in an argument."""
    require_file(argument, path, endings)
    with open(path, "rb") as file:
        return file.read()


def import_custom_objects(module: str | None) -> dict[str, object]:
    """{name: class or function} that the module of --module defines; importing it also registers
    what it decorates for Keras.

    Raises:
        ValueError: the module does not exist, or fails while it is imported.
    """
    if module is None:
        return {}
    try:
        imported = _imported(module)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"--module {module!r} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    return {
        name: value
        for name, value in vars(imported).items()
        if callable(value) and getattr(value, "__module__", None) == imported.__name__
    }


def import_metric(metric: str | None) -> UserMetric | None:
    """The metric that --metric=module:function names.

    Raises:
        ValueError: it is not of that form, the module cannot be imported, or it has no such
            function.
    """
    if metric is None:
        return None
    module, colon, name = metric.rpartition(":")
    if not (module and colon and name):
        raise ValueError(
            f"--metric {metric!r} is not module:function, e.g. my_metric.py:mean_error or "
            "package.module:mean_error"
        )
    try:
        imported = _imported(module)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"--metric {metric!r}: {module!r} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    functions = [n for n, v in vars(imported).items() if callable(v) and not n.startswith("_")]
    if not callable(getattr(imported, name, None)):
        raise ValueError(f"--metric {metric!r}: {unknown_name('function', name, functions)}")
    return UserMetric(getattr(imported, name), name)


def _imported(module):
    from keras_effnet.litert.runtime import native_log_hidden

    with native_log_hidden():  # it imports Keras
        if not module.endswith(".py"):
            sys.path.insert(0, os.getcwd())  # a program's path has only its folder
            return importlib.import_module(module)
        path = os.path.abspath(module)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} is not a file")
        sys.path.insert(0, os.path.dirname(path))
        name = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location(name, path)
        imported = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, imported)  # a file may have the name of a known module
        spec.loader.exec_module(imported)
        return imported
