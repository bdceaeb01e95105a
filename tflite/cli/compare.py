"""``effnet-tflite report`` and ``effnet-tflite compare``: evaluate .tflite files that exist."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from dataclasses import dataclass

from keras_effnet.arguments import ArgumentParser
from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.image_preprocessing import Preprocessing, preprocessing
from keras_effnet.label_file import read_labels
from keras_effnet.litert import metadata
from keras_effnet.litert.classifier import Classifier, open_classifier
from tflite.cli.command import (
    EVALUATION_IMAGES,
    LABELS,
    MODELS,
    MODULE,
    check_model_path,
    exit_status,
    import_custom_objects,
    open_images,
    read_tflite,
)
from tflite.cli.progress import progress_lines
from tflite.evaluation.accuracy import EvaluationImages
from tflite.evaluation.comparison import compare
from tflite.images.loader import fit_labels, load_images, match_names, open_source
from tflite.report import own_files, provenance
from tflite.report.html_report import write_report

_REPORT = """\
Evaluates a converted .tflite against its float model: accuracy, prediction
agreement, SQNR by block, changed predictions, size, latency, and which hardware
runs it.

Writes OUT, an HTML page that needs no other files, and the same data as .json
next to it. The JSON of the conversion (MODEL.json), if it exists, is included."""

_COMPARE = """\
Evaluates any two .tflite classifiers with the same number of classes against
each other, from any tool. Each gets the images in its own size. Writes OUT and
the same data as .json next to it."""

_PROBE = 16  # images that are loaded first, to find errors early; also the most that may be corrupt


@dataclass(frozen=True)
class _Models:
    """The two models to compare."""

    reference: Classifier
    candidate: Classifier
    names: tuple[str, str]
    input_spec: Preprocessing | None = None  # of the reference, if it was a Keras model


def main_report(argv) -> int:
    """Runs ``effnet-tflite report``; returns the exit status: 0, 2 for bad input, 1 for a float
    model that cannot be converted.
    """
    return _with_progress("effnet-tflite report", _report, list(argv))


def main_compare(argv) -> int:
    """Runs ``effnet-tflite compare``; returns the exit status: 0, or 2 for bad input."""
    return _with_progress("effnet-tflite compare", _compare, list(argv))


def _with_progress(name, command, argv):
    def run():
        with progress_lines() as log:
            return command(argv, log)

    return exit_status(name, run)


def _report(argv, log):
    options = _parse(make_report_parser(), argv)
    model = _open("model", options.model)
    record_path = f"{options.model}.json"
    inputs = {"MODEL": options.model, "--float": options.float}
    out = _writable(options, _beside(options.model, "report"), record_path, inputs)
    record = _read_record(record_path, model.tflite_model)
    check_model_path("--float", options.float)
    input_spec = None
    if not options.float.endswith(".tflite"):
        class_names = _class_names(options, model)
        _load(options, model, class_names, None, limit=_PROBE)  # errors before the slow conversion
        reference, input_spec = _converted(options, model, log)
    else:
        reference = _open("--float", options.float, ".keras, .h5 or .tflite")
    _require_same_classes((reference, options.float), (model, options.model))
    class_names = _class_names(options, model, reference)
    preset = record.get("preset")
    name = preset if isinstance(preset, str) else os.path.basename(options.model)
    models = _Models(reference, model, ("float32", name), input_spec)
    origin = _origin("report", argv, options.model, options.float)
    return _write((options, out), models, class_names, record, origin, log)


def _compare(argv, log):
    options = _parse(make_compare_parser(), argv)
    reference = _open("reference", options.reference)
    candidate = _open("candidate", options.candidate)
    _require_same_classes((reference, options.reference), (candidate, options.candidate))
    inputs = {"REFERENCE": options.reference, "CANDIDATE": options.candidate}
    beside = _beside(options.candidate, "compare")
    out = _writable(options, beside, f"{options.candidate}.json", inputs)
    names = tuple(os.path.basename(path) for path in (options.reference, options.candidate))
    if names[0] == names[1]:
        names = (options.reference, options.candidate)
    class_names = _class_names(options, reference, candidate)
    models = _Models(reference, candidate, names)
    origin = _origin("compare", argv, options.candidate, options.reference)
    return _write((options, out), models, class_names, {}, origin, log)


def _origin(name, argv, path, reference):
    command = shlex.join(["effnet-tflite", name, *argv])
    return provenance.origin_of(path, model=reference, command=command)


def _write(to, models, class_names, record, origin, log):
    """Loads the images, compares the models and writes the report; `to` is (options, its path)."""
    options, out = to
    reference, candidate = models.reference, models.candidate
    log("Loading images")
    images, lines = _load(options, reference, class_names, models.input_spec, options.limit)
    for line in lines:
        log(line)
    if _image_shape(reference) != _image_shape(candidate):
        resized, _ = _load(options, candidate, class_names, models.input_spec, options.limit)
        images = dataclasses.replace(images, candidate_images=resized.images)
    log(f"Comparing on {len(images.images):,} images")
    comparison = compare(reference.tflite_model, candidate.tflite_model, images, names=models.names)
    if class_names is None and images.labels is not None:
        class_names = images.class_names
    json_path = write_report(
        out,
        comparison,
        record=record,
        images=images.images,
        class_names=class_names,
        origin=origin,
    )
    print(f"\n{comparison.report}\n\nWrote {out} and {json_path}")
    return 0


def make_report_parser() -> ArgumentParser:
    """The parser of ``effnet-tflite report``."""
    parser = ArgumentParser(prog="effnet-tflite report", description=_REPORT)
    example = "effnet-tflite report my.tflite --float=my.keras --data=photos"
    group = parser.add_group("models", example)
    group.add_argument("model", help="converted .tflite")
    group.add_argument("--float", required=True, help=f"float model to compare with: {MODELS}")
    group.add_argument("--module", help=MODULE)
    _add_images_and_page(parser, example)
    return parser


def make_compare_parser() -> ArgumentParser:
    """The parser of ``effnet-tflite compare``."""
    parser = ArgumentParser(prog="effnet-tflite compare", description=_COMPARE)
    example = "effnet-tflite compare first.tflite second.tflite --data=photos"
    group = parser.add_group("models", example)
    group.add_argument("reference", help=".tflite to compare with")
    group.add_argument("candidate", help=".tflite to compare")
    _add_images_and_page(parser, example)
    return parser


def _add_images_and_page(parser, example):
    group = parser.add_group("images", f"{example} --limit=500")
    group.add_argument(
        "--data",
        required=True,
        help=f"images that the model was not trained on: {EVALUATION_IMAGES}",
    )
    group.add_argument("--labels", help=LABELS)
    group.add_argument("--limit", type=int, help="maximum number of images, spread evenly")
    group = parser.add_group("page", f"{example} --out=r.html")
    group.add_argument("--out", help=".html to write (default: next to the .tflite)")


def _parse(parser, argv):
    options = parser.parse_args(argv)
    options.images = open_images("data", options.data, evaluation=True)
    return options


def _beside(path, kind):
    return f"{os.path.splitext(path)[0]}.{kind}.html"


def _open(argument, path, endings=".tflite"):
    return open_classifier(read_tflite(argument, path, endings), path)


def _converted(options, model, log):
    """(Classifier, its Preprocessing or None) of a Keras file or a SavedModel folder, in the image
    size of a model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    path = options.float
    custom_objects = import_custom_objects(options.module)
    log(f"Converting {path} to a float32 .tflite")
    from tflite.export import export_float32
    from tflite.keras_models.files import load_keras

    keras_model = load_keras(path, custom_objects)
    try:
        input_spec = preprocessing(keras_model)
    except ValueError:  # not built by keras_effnet: resize without cropping
        input_spec = None
    fixed = keras_model.inputs[0].shape[1:3] if getattr(keras_model, "inputs", None) else ()
    size = (model.height, model.width) if None in tuple(fixed) else None
    return open_classifier(export_float32(keras_model, image_size=size), path), input_spec


def _require_same_classes(first, second):
    (first, first_path), (second, second_path) = first, second
    if first.classes != second.classes:
        raise ValueError(
            f"{first_path} has {first.classes} classes and {second_path} has {second.classes}: "
            "give models with the same number of classes"
        )


def _class_names(options, *models):
    """The names in --labels, or in the metadata of the first model that has some; else None."""
    classes = models[0].classes
    if options.labels is not None:
        names = read_labels(options.labels)
        if len(names) != classes:
            raise ValueError(
                f"--labels {options.labels!r} has {len(names)} names for a model with {classes} "
                "classes"
            )
        return names
    for model in models:
        try:
            described = metadata.read(model.tflite_model)
        except ValueError:
            continue  # damaged, or of another format
        if described is not None and described.labels and len(described.labels) == classes:
            return tuple(described.labels)
    return None


def _load(options, model, class_names, input_spec, limit):
    """(EvaluationImages in the size of a model, lines to print)."""
    if isinstance(options.images, str):  # a TensorFlow Dataset
        options.images = open_source(options.images, evaluation=True)
    expected = class_names
    if options.labels is None and class_names is not None:
        expected = _names_of_data(options.images, class_names)
    image_set = load_images(
        options.images,
        _image_shape(model),
        preprocessing=input_spec,
        class_names=expected,
        limit=limit,
        max_corrupt=_PROBE,
    )
    lines = image_set.notes()
    if model.is_classifier:
        image_set = fit_labels(image_set, model.classes, expected, lines.append)
    images = EvaluationImages(
        image_set.images,
        image_set.labels if model.is_classifier else None,
        image_set.source,
        class_names=image_set.class_names,
    )
    return images, lines


def _names_of_data(images, class_names):
    """The names in the file's metadata, or None if the classes of the data have other names."""
    if isinstance(images, LabeledImages) and images.classes is not None:
        try:
            match_names(images, class_names)
        except ValueError:
            return None
    return class_names


def _image_shape(model):
    return model.height, model.width, model.channels


def _read_record(path, tflite_model):
    """The JSON that the conversion to `tflite_model` wrote; {} if it is missing, damaged or of
    another one.
    """
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8-sig") as file:
            record = json.load(file)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        print(f"  {path} is not the JSON of a conversion: ignored", flush=True)
        return {}
    if record.get("sha256") not in (None, hashlib.sha256(tflite_model).hexdigest()):
        print(f"  {path} is of another .tflite than the one beside it: ignored", flush=True)
        return {}
    return record


def _writable(options, beside, record_path, inputs):
    """The absolute path of the page, if it and its JSON can be written."""
    path = os.path.abspath(options.out or beside)
    stem, ending = os.path.splitext(path)
    if ending != ".html":
        raise ValueError(f"--out {path!r} does not end in .html")
    inputs = {**inputs, "--data": options.data, "--labels": options.labels}
    own_files.check_replaceable(path, inputs)
    own_files.check_replaceable(f"{stem}.json", {**inputs, "the conversion's JSON": record_path})
    return path
