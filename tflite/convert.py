"""Keras model -> checked .tflite: export, calibration, plan, quantization and verification in one
call.
"""

import json
import os
import tempfile
from dataclasses import dataclass

from keras_effnet.preprocess import preprocessing
from keras_effnet.variants import unknown
from tflite import graph
from tflite.calibrate import calibrate, require_images
from tflite.export import float_tflite, image_shape
from tflite.images import load_images
from tflite.quantize import QuantPlan, plan_int8, quantize
from tflite.verify import Report, verify

MODES = ("float32", "int8")
CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class Conversion:
    """A converted model, what it was made of, and how it does."""

    mode: str
    tflite: bytes
    float_tflite: bytes  # the same bytes in mode "float32"
    plan: "QuantPlan | None"  # None in mode "float32"
    ranges: "dict | None"  # {tensor: {"min", "max"}}; None in mode "float32"
    report: "Report | None"  # None without images
    skipped: "tuple[str, ...]"  # images that could not be decoded

    def as_dict(self):
        """What the JSON report holds: numbers, strings, lists and dictionaries only."""
        return {
            "mode": self.mode,
            "size": len(self.tflite),
            "ops": graph.census(graph.read_ops(self.tflite)),
            "plan": None if self.plan is None else str(self.plan).splitlines(),
            "report": None if self.report is None else self.report.as_dict(),
            "skipped_images": list(self.skipped),
        }


def convert(
    model,
    *,
    mode="int8",
    calibration=None,
    verification=None,
    class_names=None,
    image_size=None,
    calibration_images=CALIBRATION_IMAGES,
    max_corrupt=10,
    progress=None,
):
    """A :class:`Conversion` of a Keras classifier of images (batch, height, width, 3) in [0, 255].

    In mode "int8" the .tflite takes uint8 pixels (1, height, width, 3) and gives float32 scores
    (1, classes); in mode "float32" it takes float32 pixels in the same range.

    Args:
        model: a Keras image classifier whose preprocessing is inside.
        mode: "int8" or "float32".
        calibration: images for the ranges of int8, whatever ``load_images`` takes; 16 at least.
        verification: images that float and int8 are compared on. Default: the calibration images,
            and the report says so; nothing is measured in mode "float32" then.
        class_names: of the model's outputs, in order. Class folders are looked up among them;
            without, sorted folder names count as the classes if there are as many.
        image_size: pixels a side, or (height, width), of a model whose own size is None.
        calibration_images: at most so many, spread evenly over all.
        max_corrupt: so many files that cannot be decoded are skipped in each set.
        progress: called with a line of text before every step, e.g. ``print``.

    Raises:
        ValueError: bad input, before anything slow.
        ConversionError: a product that is not the model.
    """
    say = progress or (lambda line: None)
    if mode not in MODES:
        raise ValueError(unknown("mode", mode, MODES))
    height, width, _ = image_shape(model, image_size)
    classes = model.outputs[0].shape[-1]
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for a model with {classes} outputs")
    if mode == "int8" and calibration is None:
        raise ValueError(
            "mode 'int8' needs calibration images: a folder, an .npz or an array of 100 to 500 "
            "images like those of later use"
        )
    if mode == "float32" and calibration is not None:
        raise ValueError("mode 'float32' takes no calibration images; leave them out, or take int8")

    try:
        contract = preprocessing(model)
    except ValueError:
        contract = None  # of others' making: a phone's stretch
    else:
        say(f"Images: {contract}")

    def load(source, limit=None):
        found = load_images(
            source,
            (height, width),
            preprocessing=contract,
            class_names=class_names,
            limit=limit,
            max_corrupt=max_corrupt,
        )
        labels = found.labels
        folders = found.class_names
        if folders is not None and class_names is None and len(folders) != classes:
            say(f"  {len(folders)} class folders for {classes} classes: top-1 is not measured")
            labels = None
        if labels is not None and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(
                f"{found.source}: labels run from {labels.min()} to {labels.max()}, and the model "
                f"has {classes} classes (0 to {classes - 1})"
            )
        say(f"  {found.source}")
        for path in found.skipped:
            say(f"  skipped, cannot be decoded: {path}")
        return found, labels

    sets = []
    if calibration is not None:
        say("Loading calibration images")
        sets.append(load(calibration, calibration_images))
        require_images(len(sets[0][0].images))
    if verification is not None:
        say("Loading verification images")
        sets.append(load(verification))

    say(f"Converting to a float32 .tflite, {height}x{width} px")
    float_content = content = float_tflite(model, image_size=image_size)
    plan = ranges = report = None
    if mode == "int8":
        images = sets[0][0].images
        say(f"Measuring the range of every tensor on {len(images):,} images")
        ranges = calibrate(float_content, images)
        plan = plan_int8(graph.read_ops(float_content), calibration_images=len(images))
        say("Quantizing to int8")
        content = quantize(float_content, ranges, plan)
    if sets:
        found, labels = sets[-1]
        source = found.source
        if verification is None:
            source += ", the calibration images: give other ones for a figure to rely on"
        say(f"Comparing on {len(found.images):,} images")
        int8_content = content if mode == "int8" else None
        report = verify(float_content, int8_content, found.images, labels, source=source)
    skipped = tuple(path for found, _ in sets for path in found.skipped)
    return Conversion(mode, content, float_content, plan, ranges, report, skipped)


def save(conversion, path, *, class_names=None):
    """Writes the .tflite, its report ``<path>.json``, and ``<path>.labels.txt`` if there are names.

    Each is written aside and moved into place, the .tflite last: a .tflite that is there is whole.
    """
    path = check_writable(path)
    files = {f"{path}.json": json.dumps(conversion.as_dict(), indent=2).encode() + b"\n"}
    if class_names is not None:
        files[f"{path}.labels.txt"] = "".join(f"{name}\n" for name in class_names).encode()
    files[path] = conversion.tflite
    for name, content in files.items():
        handle, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".tflite-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(aside, 0o666 & ~_umask())  # mkstemp's own is for the owner alone
            os.replace(aside, name)
        except BaseException:
            os.unlink(aside)
            raise


def check_writable(path):
    """The absolute path, if a file can be written there; ``ValueError`` otherwise. Leaves nothing
    behind.
    """
    path = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder; give the .tflite's own path in it")
    if not os.path.isdir(folder):
        raise ValueError(f"{folder!r} is not a folder; make it, or write elsewhere")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder!r} cannot be written to ({error}); write elsewhere") from error
    return path


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
