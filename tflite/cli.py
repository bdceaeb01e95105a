"""``effnet-tflite``: a Keras file to a .tflite for a phone, with a report beside it."""

import argparse
import os
import sys

from keras_effnet.variants import unknown
from tflite.convert import CALIBRATION_IMAGES, MODES, check_writable, convert, save
from tflite.graph import ConversionError

_DESCRIPTION = """\
Converts a Keras image classifier (its preprocessing inside, pixels in [0, 255]) to a .tflite of
batch 1. int8 takes uint8 pixels and gives float32 scores; images of later use are needed for it.

Writes OUT, OUT.json (what was converted how, and how it does), and OUT.labels.txt with --labels
(a copy beside the model, one name a line, in the order of the scores)."""


class _Parser(argparse.ArgumentParser):
    """Raises ``ValueError`` where argparse would print its usage and leave."""

    def error(self, message):
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(argv=None):
    """Runs the command; returns the exit status: 0, 2 for bad input, 1 for a failed conversion."""
    try:
        options = _parse(sys.argv[1:] if argv is None else argv)
        return _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"effnet-tflite: {error}", file=sys.stderr)
        return 2
    except ConversionError as error:
        print(f"effnet-tflite: {error}", file=sys.stderr)
        return 1


def _parse(argv):
    parser = _Parser(
        prog="effnet-tflite",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    images = "folder of images, folder of class folders, or .npz (images, labels)"
    parser.add_argument("--model", required=True, help=".keras or .h5 file")
    parser.add_argument("--out", required=True, help=".tflite to write")
    parser.add_argument("--mode", default="int8", help=f"{' or '.join(MODES)} (default: int8)")
    parser.add_argument("--calibration", help=f"images for int8's ranges: {images}")
    parser.add_argument(
        "--calibration_images",
        type=int,
        default=CALIBRATION_IMAGES,
        help="use at most so many, spread evenly (default: %(default)s)",
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
    flags = [action.dest for action in parser._actions if action.dest != "help"]
    for word in argv:
        name = word.split("=")[0]
        if name.startswith("--") and name not in ("--help", *(f"--{flag}" for flag in flags)):
            raise ValueError(unknown("flag", name[2:], flags))
    return parser.parse_args(argv)


def _run(options):
    if options.mode not in MODES:
        raise ValueError(unknown("mode", options.mode, MODES))
    if options.mode == "int8" and options.calibration is None:
        raise ValueError(
            "--mode=int8 needs --calibration: a folder or .npz of 100 to 500 images like those of "
            "later use (or take --mode=float32)"
        )
    for flag in ("calibration", "verify"):
        path = getattr(options, flag)
        if path is not None and not os.path.exists(path):
            raise ValueError(f"--{flag} {path!r} does not exist")
    out = check_writable(options.out)
    class_names = None if options.labels is None else _read_labels(options.labels)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(f"Loading {options.model}", flush=True)
    from tflite.export import load_keras  # here, as all errors above come at once without it

    conversion = convert(
        load_keras(options.model),
        mode=options.mode,
        calibration=options.calibration,
        verification=options.verify,
        class_names=class_names,
        image_size=options.image_size,
        calibration_images=options.calibration_images,
        max_corrupt=options.max_corrupt,
        progress=lambda line: print(line, flush=True),
    )
    save(conversion, out, class_names=class_names)
    for part in (conversion.plan, conversion.report):
        if part is not None:
            print(f"\n{part}")
    print(f"\nWrote {options.out} and {options.out}.json")
    return 0


def _read_labels(path):
    """Class names of a text file, one a line."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file.read().splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--labels {path!r} is not a UTF-8 text file") from error
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        line = names.index("") + 1 if names else 1
        raise ValueError(f"--labels {path!r}: line {line} is empty; give one class name a line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--labels {path!r} has {twice[0]!r} twice; class names must differ")
    return tuple(names)


if __name__ == "__main__":
    sys.exit(main())
