"""``effnet-tflite``: converts a Keras file to a .tflite with a report; ``report`` and ``compare``
evaluate .tflite files.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from keras_effnet.arguments import ArgumentParser
from keras_effnet.label_file import read_labels
from tflite.cli import compare
from tflite.cli.command import (
    EVALUATION_IMAGES,
    LABELS,
    METRIC,
    MODELS,
    MODULE,
    TRAINING_IMAGES,
    check_model_path,
    exit_status,
    import_custom_objects,
    import_metric,
    open_images,
    read_tflite,
)
from tflite.cli.progress import SECONDS, progress_lines
from tflite.converter import convert
from tflite.images.loader import Arrays
from tflite.presets import PRESETS, find_preset
from tflite.quantization.calibration import require_images
from tflite.quantization.mixed_precision import Budget
from tflite.quantization.options import BUDGET_IMAGES, CALIBRATION_IMAGES, ConversionOptions
from tflite.quantization.plan_file import read_plan
from tflite.report import own_files
from tflite.request import chosen_preset
from tflite.result import Conversion, save

_DESCRIPTION = """\
Converts an image classifier to a .tflite of batch 1. The classifier is a Keras
file, or a float32 .tflite, with its preprocessing inside: it takes pixels in
[0, 255]. int8 models take uint8 pixels and return float32 scores. int8 needs
calibration images like those that the model will see.

Writes OUT with the labels inside, and OUT.json (plan, quantization steps,
evaluation). Writes OUT.html, the report, if there are images to compare the
models on (except for float32), OUT.labels.txt with --labels (one name per line,
in the order of the scores), and the model card OUT.card.md and OUT.card.json of
a classifier; see effnet card.

Other commands: effnet-tflite report | compare, each with --help."""


def main(argv=None) -> int:
    """Runs the command; returns the exit status: 0, 2 for bad input, 1 for a failed conversion, 75
    after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["report"]:
        return compare.main_report(argv[1:])
    if argv[:1] == ["compare"]:
        return compare.main_compare(argv[1:])
    return exit_status("effnet-tflite", lambda: _run(make_parser().parse_args(argv), argv))


def make_parser() -> ArgumentParser:
    """The parser of a conversion."""
    parser = ArgumentParser(prog="effnet-tflite", description=_DESCRIPTION)
    example = "effnet-tflite --model=my.keras --calibration=photos --out=my.tflite"
    group = parser.add_group("model", f"{example} --labels=labels.txt")
    group.add_argument("--model", required=True, help=MODELS)
    group.add_argument("--out", required=True, help=".tflite to write")
    group.add_argument("--labels", help=LABELS)
    group.add_argument("--module", help=MODULE)
    group.add_argument(
        "--image_size", type=int, help="pixels per side, for a model that takes any size"
    )
    group.add_argument(
        "--softmax", action="store_true", help="append a softmax to a network that ends in logits"
    )
    _add_images(parser, example)
    _add_precision(parser, example)
    group = parser.add_group("work", f"{example} --no_cache --no_progress")
    group.add_argument(
        "--no_cache",
        action="store_true",
        help="neither read nor write the cache of calibrations (in KERAS_HOME, default ~/.keras), "
        "which serves later conversions of the same network with the same images",
    )
    group.add_argument(
        "--no_progress",
        action="store_true",
        help=f"do not print the running stage again every {SECONDS:g} seconds",
    )
    return parser


def _add_images(parser, example):
    group = parser.add_group("images", f"{example} --evaluation=photos/test")
    group.add_argument(
        "--calibration",
        help=f"images for quantization ranges and weight rounding: {TRAINING_IMAGES}. float32 "
        "and float16 are only compared on them",
    )
    group.add_argument(
        "--calibration_images",
        type=int,
        help="maximum number of calibration images, spread evenly (default: "
        f"{CALIBRATION_IMAGES}, with a budget {BUDGET_IMAGES})",
    )
    group.add_argument(
        "--evaluation",
        help=f"images to compare float and int8 on: {EVALUATION_IMAGES} (default: "
        "the calibration images)",
    )
    group.add_argument("--metric", help=METRIC)
    group.add_argument(
        "--max_corrupt",
        type=int,
        default=10,
        help="number of images that may fail to decode; they are skipped",
    )


def _add_precision(parser, example):
    group = parser.add_group("precision", f"{example} --max_drop=1")
    presets = "; ".join(f"{p.name} ({p.purpose})" for p in PRESETS.values())
    group.add_argument("--preset", help=f"{presets} (default: int8, or int8_mixed with a budget)")
    group.add_argument(
        "--max_drop",
        type=float,
        help="budget: largest drop of top-1 on held-out images, in percentage points (int8_mixed)",
    )
    group.add_argument(
        "--min_agreement",
        type=float,
        help="budget: smallest share of held-out images with the same prediction as the float "
        "model, e.g. 0.97 (int8_mixed)",
    )
    group.add_argument(
        "--finetune",
        action=argparse.BooleanOptionalAction,
        help="fine-tune int8 against the float model, without labels; takes minutes (default: only "
        "int8_strict)",
    )
    group.add_argument(
        "--recipe",
        help="quantization plan to follow: the .json of a conversion, with its quantization_plan "
        "edited: precision and range of single ops or of all that match a pattern",
    )


def _run(options, argv):
    if options.preset is not None:
        find_preset(options.preset)
    recipe = None if options.recipe is None else read_plan(options.recipe)
    if options.calibration is None and (
        options.preset is None or PRESETS[options.preset].calibrated
    ):
        raise ValueError(
            f"preset {options.preset or 'int8'} needs --calibration: a folder, shards or .npz of "
            "100 to 500 images like those that the model will see (or use --preset=float32, "
            "float16 or weight_only)"
        )
    preset = chosen_preset(
        options.preset,
        Budget(options.max_drop, options.min_agreement),
        ConversionOptions(
            max_corrupt=options.max_corrupt,
            calibration_images=options.calibration_images,
            finetune=options.finetune,
            recipe=recipe,
        ),
        has_calibration=options.calibration is not None,
    )
    if options.image_size is not None and options.image_size < 1:
        raise ValueError(f"image_size must be a number of pixels, got {options.image_size}")
    check_model_path("model", options.model)
    calibration = open_images("calibration", options.calibration)
    if preset.calibrated and not isinstance(calibration, str):
        images = calibration.images if isinstance(calibration, Arrays) else calibration
        require_images(len(images))
    evaluation = open_images("evaluation", options.evaluation, evaluation=True)
    out = _checked_out(options)
    class_names = None if options.labels is None else read_labels(options.labels)
    metric = import_metric(options.metric)
    if metric is not None and options.calibration is options.evaluation is None:
        raise ValueError("--metric needs images: give --calibration or --evaluation")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    custom_objects = import_custom_objects(options.module)
    with progress_lines(seconds=None if options.no_progress else SECONDS) as log:
        log(f"Loading {options.model}")
        conversion = convert(
            _load_model(options.model, custom_objects),
            preset=options.preset,
            max_drop=options.max_drop,
            min_agreement=options.min_agreement,
            finetune=options.finetune,
            calibration=calibration,
            evaluation=evaluation,
            class_names=class_names,
            image_size=options.image_size,
            calibration_images=options.calibration_images,
            max_corrupt=options.max_corrupt,
            softmax=options.softmax,
            metric=metric,
            recipe=recipe,
            cache=not options.no_cache,
            log=log,
        )
    is_own = class_names is not None and _is_labels_file_of(options.labels, out)
    paths = save(
        conversion,
        out,
        class_names=None if is_own else class_names,
        model=options.model,
        command=shlex.join(["effnet-tflite", *argv]),
    )
    for text in (conversion.plan, format_steps(conversion), conversion.report):
        if text:
            print(f"\n{text}")
    for warning in conversion.warnings:
        print(f"\nWarning: {warning}")
    labels = f"{out}.labels.txt"
    if options.labels is None and os.path.exists(labels):
        print(
            f"\nWarning: {labels} was there before. effnet evaluate takes it for the labels of "
            "this model: delete it, or give it as --labels"
        )
    print(f"\nWrote {', '.join(paths)}")
    return 0


def _checked_out(options):
    """The absolute path of the .tflite, if no file that may be written replaces anything else."""
    inputs = {
        "--model": options.model,
        "--calibration": options.calibration,
        "--evaluation": options.evaluation,
        "--recipe": options.recipe,
    }
    out = own_files.check_replaceable(options.out, {**inputs, "--labels": options.labels})
    if not out.endswith(".tflite"):  # the names of the other files depend on it
        raise ValueError(f"--out {options.out!r} must end in .tflite, e.g. {options.out}.tflite")
    compared = options.calibration is not None or options.evaluation is not None
    labels = options.labels is not None and not _is_labels_file_of(options.labels, out)
    for path in own_files.conversion_files(out, compared=compared, labels=labels):
        own_files.check_replaceable(path, {**inputs, "--labels": options.labels})
    return out


def _is_labels_file_of(labels, out):
    """Whether --labels names the file of an earlier conversion, which then stays as it is."""
    path = f"{out}.labels.txt"
    return os.path.exists(path) and os.path.exists(labels) and os.path.samefile(path, labels)


def _load_model(path, custom_objects):
    """The bytes of a .tflite, a Keras model or a SavedModel."""
    if path.endswith(".tflite"):
        return read_tflite("model", path, ".keras, .h5 or .tflite")
    from tflite.keras_models.files import (
        load_keras,
    )  # imports TensorFlow: only after all other checks

    return load_keras(path, custom_objects)


def format_steps(conversion: Conversion) -> str:
    """The quantization steps and the float32 regions as a table; "" without any."""
    lines = []
    if conversion.quantization_steps:
        first, second = conversion.quantization_steps[0].measures
        first = {"KL divergence": "KL", "relative error": "error"}.get(first, "loss")
        lines.append(f"{'step':<20}{first:>10}{second[-11:]:>12}{'models':>9}")
    for step in conversion.quantization_steps:
        note = step.description
        if not step.kept:
            verb = "skipped" if step.skipped else "not kept"
            note = f"{verb}: {step.evidence}" if step.runs else "not kept: the model does not run"
        kl = f"{step.kl_divergence:.5f}" if step.runs else "-"
        lines.append(f"{step.name:<20}{kl:>10}{step.second_text:>12}{step.evaluations:>9}  {note}")
    for region in conversion.float32_regions:
        lines.append(f"float32  {region.name}: {region.reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
