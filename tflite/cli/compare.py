"""``effnet-tflite report`` and ``effnet-tflite compare``: two .tflite on the same images, as a page
and as JSON.
"""

import json
import os
import sys

from keras_effnet.arguments import ArgumentParser
from keras_effnet.image_preprocessing import preprocessing
from keras_effnet.label_file import read_labels
from tflite.evaluation.classifier import open_classifier
from tflite.evaluation.comparison import compare
from tflite.flatbuffer import metadata
from tflite.flatbuffer.ops import ConversionError
from tflite.images import tfrecord
from tflite.images.loader import load_images
from tflite.report.render import write_report

_REPORT = """\
Says what a converted .tflite is worth: accuracy, agreement with the float model, signal and noise
block by block, the images that changed their answer, size, latency, and which hardware takes it.

Writes OUT (a page that needs nothing else) and the same figures as .json beside it. What a
conversion wrote of itself (MODEL.json) is shown as well."""

_COMPARE = """\
The same for any two .tflite classifiers with as many classes, whoever made them; each gets the
images in its own size. Writes OUT and the same figures as .json beside it."""

_PROBED = 16  # images that show what is wrong with a set; and so many may be corrupt
IMAGES = (
    "folder of images, folder of class folders, folder of TFRecord shards (its train set; "
    "FOLDER/validation for another), tfds:NAME or tfds:NAME/SPLIT, or .npz (images, labels)"
)


def main_report(argv):
    """Runs ``effnet-tflite report``; returns the exit status: 0, 2 for bad input, 1 for a float
    model that does not convert.
    """
    return _guarded("report", argv, _report)


def main_compare(argv):
    """Runs ``effnet-tflite compare``; returns the exit status: 0, or 2 for bad input."""
    return _guarded("compare", argv, _compare)


def _guarded(name, argv, command):
    try:
        return command(argv)
    except (ValueError, OSError, ImportError) as error:
        print(f"effnet-tflite {name}: {error}", file=sys.stderr)
        return 2
    except ConversionError as error:
        print(f"effnet-tflite {name}: {error}", file=sys.stderr)
        return 1


def _report(argv):
    parser = _parser("report", _REPORT)
    parser.add_argument("model", help=".tflite to report on")
    parser.add_argument("--float", required=True, help="what it was made of: .keras, .h5, .tflite")
    options = _parse(parser, argv)
    model = _open(options.model)
    stem = os.path.splitext(options.model)[0]
    record_path = f"{options.model}.json"
    out = _writable(options.out or f"{stem}.report.html", record_path)
    record = _record(record_path)
    first = input_spec = None
    if os.path.splitext(options.float)[1] not in (".keras", ".h5"):
        first = _open(options.float)
        _require_same_classes(first, options.float, model, options.model)
    elif not os.path.isfile(options.float):
        raise ValueError(f"--float {options.float!r} is not a file; give a .keras, .h5 or .tflite")
    names = _class_names(options, [model, *([first] if first else [])])
    if first is None:
        _load(options, model, names, None, limit=_PROBED)  # what is wrong with them shows at once
        first, input_spec = _converted(options.float, model)
        _require_same_classes(first, options.float, model, options.model)
    preset = record.get("preset")
    titles = ("float32", preset if isinstance(preset, str) else os.path.basename(options.model))
    return _write(options, out, first, model, titles, names, record, input_spec)


def _compare(argv):
    parser = _parser("compare", _COMPARE)
    parser.add_argument("first", help=".tflite to compare with")
    parser.add_argument("second", help=".tflite to compare")
    options = _parse(parser, argv)
    first, second = _open(options.first), _open(options.second)
    _require_same_classes(first, options.first, second, options.second)
    stem = os.path.splitext(options.second)[0]
    out = _writable(options.out or f"{stem}.compare.html", f"{options.second}.json")
    names = _class_names(options, [first, second])
    titles = tuple(os.path.basename(path) for path in (options.first, options.second))
    if titles[0] == titles[1]:
        titles = (options.first, options.second)
    return _write(options, out, first, second, titles, names, {}, None)


def _write(options, out, first, second, titles, names, record, input_spec):
    print("Loading images", flush=True)
    found, labels = _load(options, first, names, input_spec, options.limit, say=True)
    images = found.images
    others = images
    if (first.height, first.width) != (second.height, second.width):
        others = _load(options, second, names, input_spec, options.limit)[0].images
    print(f"Comparing on {len(images):,} images", flush=True)
    made = compare(
        first.content,
        second.content,
        images,
        labels,
        source=found.source,
        first_title=titles[0],
        title=titles[1],
        second_images=others,
    )
    if names is None and labels is not None:
        names = found.class_names
    figures = write_report(out, made, record=record, images=images, class_names=names)
    print(f"\n{made.report}\n\nWrote {out} and {figures}")
    return 0


def _parser(name, description):
    return ArgumentParser(prog=f"effnet-tflite {name}", description=description)


def _parse(parser, argv):
    parser.add_argument("--data", required=True, help=f"images that were not trained on: {IMAGES}")
    parser.add_argument(
        "--labels", help="text file with one class name a line, in the order of the scores"
    )
    parser.add_argument("--out", help=".html to write (default: beside the .tflite)")
    parser.add_argument("--limit", type=int, help="at most so many images, spread evenly")
    options = parser.parse_args(argv)
    if not tfrecord.exists(options.data):
        raise ValueError(f"--data {options.data!r} does not exist")
    return options


def _open(path):
    if not os.path.isfile(path):
        raise ValueError(f"{path!r} is not a file; give a .tflite")
    with open(path, "rb") as file:
        model = open_classifier(file.read(), path)
    if model.classes < 2:
        raise ValueError(f"{path} gives one score; a report needs 2 classes or more")
    return model


def _converted(path, model):
    """(Classifier, how its images are prepared or None) of a Keras file, in the model's size."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(f"Converting {path} to a float32 .tflite", flush=True)
    from tflite.export import export_float32, load_keras  # TensorFlow, only where it is needed

    keras_model = load_keras(path)
    try:
        input_spec = preprocessing(keras_model)
    except ValueError:
        input_spec = None  # of others' making: a phone's stretch
    own = keras_model.inputs[0].shape[1:3] if getattr(keras_model, "inputs", None) else ()
    size = (model.height, model.width) if None in tuple(own) else None
    return open_classifier(export_float32(keras_model, image_size=size), path), input_spec


def _require_same_classes(first, first_path, second, second_path):
    if first.classes != second.classes:
        raise ValueError(
            f"{first_path} has {first.classes} classes and {second_path} has {second.classes}: "
            "only files with as many can be compared"
        )


def _class_names(options, models):
    """Of --labels, or of the first file whose metadata names them; None without."""
    classes = models[0].classes
    if options.labels is not None:
        names = read_labels(options.labels)
        if len(names) != classes:
            raise ValueError(
                f"--labels {options.labels!r} has {len(names)} names, and the model {classes} "
                "classes"
            )
        return names
    for model in models:
        try:
            found = metadata.read(model.content)
        except ValueError:
            continue  # damaged, or of another format: it is not needed
        if found is not None and found.labels is not None and len(found.labels) == classes:
            return tuple(found.labels)
    return None


def _load(options, model, names, input_spec, limit, *, say=False):
    """(ImageSet in the model's size, labels or None)."""
    looked_up = names
    if options.labels is None and names is not None and os.path.isdir(options.data):
        inside = os.scandir(options.data)
        if not {e.name for e in inside if e.is_dir() and not e.name.startswith(".")} <= set(names):
            looked_up = None  # the file's own names are not this folder's
    found = load_images(
        options.data,
        (model.height, model.width),
        preprocessing=input_spec,
        class_names=looked_up,
        limit=limit,
        max_corrupt=_PROBED,
    )
    labels, folders = found.labels, found.class_names
    lines = [f"  {found.source}", *(f"  skipped, cannot be decoded: {p}" for p in found.skipped)]
    if folders is not None and looked_up is None and len(folders) != model.classes:
        labels = None
        lines.append(
            f"  {len(folders)} classes of images, {model.classes} of the model: top-1 is not "
            "measured"
        )
    if labels is not None and (labels.min() < 0 or labels.max() >= model.classes):
        raise ValueError(
            f"{found.source}: labels run from {labels.min()} to {labels.max()}, and the model has "
            f"{model.classes} classes (0 to {model.classes - 1})"
        )
    if say:
        print("\n".join(lines), flush=True)
    return found, labels


def _record(path):
    """What a conversion wrote of itself; {} without."""
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        print(f"  {path} is not a conversion's record: left out", flush=True)
        return {}
    return record


def _writable(path, record_path):
    """The absolute path of the page, if it and its JSON can be written there."""
    path = os.path.abspath(path)
    stem, ending = os.path.splitext(path)
    if ending != ".html":
        raise ValueError(f"--out {path!r} does not end in .html")
    if f"{stem}.json" == os.path.abspath(record_path):
        raise ValueError(f"--out {path!r} would write over {record_path}: give another name")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"{folder!r} is no folder that can be written to; give --out")
    if os.path.isdir(path):
        raise ValueError(f"--out {path!r} is a folder; give a file in it")
    return path
