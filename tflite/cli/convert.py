"""``effnet-tflite``: a Keras file to a .tflite for a phone, with a report beside it; ``report`` and
``compare`` look at files that are there.
"""

import argparse
import os
import sys

from keras_effnet import atomic_write
from keras_effnet.arguments import ArgumentParser
from keras_effnet.label_file import read_labels
from keras_effnet.native_logs import filter_native_logs
from tflite.cli import compare
from tflite.converter import BUDGET_IMAGES, CALIBRATION_IMAGES, convert
from tflite.flatbuffer.rewrite import ConversionError
from tflite.images import tfrecord
from tflite.presets import PRESETS, find_preset
from tflite.result import save

_DESCRIPTION = """\
Converts an image classifier (Keras, or a float32 .tflite; its preprocessing inside, pixels in
[0, 255]) to a .tflite of batch 1. int8 takes uint8 pixels and gives float32 scores; images of later
use are needed for it.

  effnet-tflite --model=my.keras --calibration=photos/ --labels=labels.txt --out=my.tflite

Writes OUT with the labels inside, OUT.html and OUT.json (what was converted how, and how it does),
and OUT.labels.txt with --labels (one name a line, in the order of the scores).

Other commands: effnet-tflite report | compare, each with --help."""


def main(argv=None):
    """Runs the command; returns the exit status: 0, 2 for bad input, 1 for a failed conversion."""
    if argv is None:  # run as a program
        filter_native_logs()
    try:
        argv = sys.argv[1:] if argv is None else list(argv)
        if argv[:1] == ["report"]:
            return compare.main_report(argv[1:])
        if argv[:1] == ["compare"]:
            return compare.main_compare(argv[1:])
        return _run(_parse(argv))
    except (ValueError, OSError, ImportError) as error:
        print(f"effnet-tflite: {error}", file=sys.stderr)
        return 2
    except ConversionError as error:
        print(f"effnet-tflite: {error}", file=sys.stderr)
        return 1


def _parse(argv):
    parser = ArgumentParser(
        prog="effnet-tflite",
        description=_DESCRIPTION,
    )
    images = compare.IMAGES
    parser.add_argument("--model", required=True, help=".keras, .h5 or float32 .tflite file")
    parser.add_argument("--out", required=True, help=".tflite to write")
    rows = "; ".join(f"{p.name} ({p.purpose})" for p in PRESETS.values())
    parser.add_argument(
        "--preset", help=f"{rows} (default: int8, or int8_mixed where a budget is given)"
    )
    parser.add_argument(
        "--max_drop",
        type=float,
        help="budget: points of top-1 that may be lost on held-out images (int8_mixed)",
    )
    parser.add_argument(
        "--min_agreement",
        type=float,
        help="budget: share of held-out images that must keep their answer, e.g. 0.97 (int8_mixed)",
    )
    parser.add_argument(
        "--tune",
        action=argparse.BooleanOptionalAction,
        help="fine-tune int8 against the float model, without labels; takes minutes (default: for "
        "int8_strict)",
    )
    parser.add_argument("--calibration", help=f"images for int8's ranges and weights: {images}")
    parser.add_argument(
        "--calibration_images",
        type=int,
        help="use at most so many, spread evenly (default: "
        f"{CALIBRATION_IMAGES}, with a budget {BUDGET_IMAGES})",
    )
    parser.add_argument(
        "--verify",
        help=f"images to compare float and int8 on: {images} (default: the calibration images)",
    )
    parser.add_argument(
        "--labels", help="text file with one class name a line, in the order of the scores"
    )
    parser.add_argument(
        "--image_size", type=int, help="pixels a side, for a model that takes any size"
    )
    parser.add_argument(
        "--max_corrupt",
        type=int,
        default=10,
        help="skip so many images that cannot be decoded (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _run(options):
    if options.preset is not None:
        find_preset(options.preset)
    if options.calibration is None and (
        options.preset is None or PRESETS[options.preset].calibrated
    ):
        raise ValueError(
            f"preset {options.preset or 'int8'} needs --calibration: a folder, shards or .npz of "
            "100 to 500 images like those of later use (or take --preset=float32, float16, "
            "weight_only)"
        )
    for flag in ("calibration", "verify"):
        path = getattr(options, flag)
        if path is not None and not tfrecord.exists(path):
            raise ValueError(f"--{flag} {path!r} does not exist")
    out = atomic_write.check_writable(options.out)
    class_names = None if options.labels is None else read_labels(options.labels)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(f"Loading {options.model}", flush=True)
    from tflite.export import load_keras  # here, as all errors above come at once without it

    conversion = convert(
        _read(options.model) if options.model.endswith(".tflite") else load_keras(options.model),
        preset=options.preset,
        max_drop=options.max_drop,
        min_agreement=options.min_agreement,
        tune=options.tune,
        calibration=options.calibration,
        verification=options.verify,
        class_names=class_names,
        image_size=options.image_size,
        calibration_images=options.calibration_images,
        max_corrupt=options.max_corrupt,
        progress=lambda line: print(line, flush=True),
    )
    save(conversion, out, class_names=class_names)
    for part in (conversion.plan, told(conversion), conversion.report):
        if part:
            print(f"\n{part}")
    for line in conversion.warnings:
        print(f"\nNote: {line}")
    print(f"\nWrote {options.out}, {options.out}.html and {options.out}.json")
    return 0


def told(conversion):
    """What each remedy changed, and which islands stay float, as lines of text."""
    lines = []
    if conversion.remedies:
        lines.append(f"{'remedy':<20}{'KL, nats':>10}{'agreement':>12}{'seconds':>9}")
    for row in conversion.remedies:
        lines.append(
            f"{row.name:<20}{row.kl:>10.5f}{row.agreement:>12.2%}{row.seconds:>9.1f}  "
            f"{row.what if row.kept else 'not kept: it did not help'}"
        )
    for island in conversion.islands:
        lines.append(f"float32  {island.name}: {island.why}")
    return "\n".join(lines)


def _read(path):
    """The bytes of a .tflite file."""
    if not os.path.isfile(path):
        raise ValueError(f"model {path!r} is not a file; give a .keras, .h5 or .tflite file")
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
