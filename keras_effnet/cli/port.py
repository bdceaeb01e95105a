"""``effnet port``: another project's weights as a ``.keras`` file, or the reverse."""

from __future__ import annotations

import argparse
import os
import sys

from keras_effnet.atomic_write import check_new, replacing
from keras_effnet.image_preprocessing import INTERPOLATIONS
from keras_effnet.keras_file import load_keras_file
from keras_effnet.porting import PROJECTS, GivenSettings, export, port, why_not_comparable
from keras_effnet.porting.pytorch import GENERATOR
from keras_effnet.pretrained.hub import is_address
from keras_effnet.pretrained.hub_weights import fetch_originals
from keras_effnet.pretrained.input_settings import ASSUMED, WHOLE
from keras_effnet.pretrained.pytorch_projects import HALF
from keras_effnet.variants import VARIANTS

TOLERANCE = 1e-3  # relative; with a larger difference nothing is written

_NORMALIZATIONS = {
    "imagenet": VARIANTS["efficientnet-b0"].normalization,
    "half": HALF,
    "128": VARIANTS["efficientnetv2-s"].normalization,
    "127": VARIANTS["efficientnet-lite0"].normalization,
}


def add_arguments(parser):
    """Adds the command's arguments to an ``argparse`` parser."""
    parser.description = (
        "Converts another project's weights and reports how far the outputs differ from that "
        "project's own network, block by block."
    )
    group = parser.add_group(
        "what to convert",
        f"{parser.prog} b0.pth --from=timm --model=tf_efficientnet_b0 --out=b0.keras",
    )
    group.add_argument(
        "path", help="a file of the other project, or hf://OWNER/NAME; with --to a .keras file"
    )
    targets = [name for name, project in PROJECTS.items() if project.write is not None]
    direction = group.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        "--from",
        dest="source",
        metavar="PROJECT",
        choices=list(PROJECTS),
        help=f"the file's project: {', '.join(PROJECTS)}",
    )
    direction.add_argument(
        "--to",
        dest="target",
        metavar="PROJECT",
        choices=targets,
        help="instead of --from: write a .keras file as that project's state dict: "
        + ", ".join(targets),
    )
    group.add_argument(
        "--model",
        required=True,
        help="the network, by its name there (tf_efficientnet_b0) or here (efficientnet-b0)",
    )
    group.add_argument("--out", required=True, help="x.keras; with --to x.safetensors")
    group = parser.add_group(
        "classifier",
        f"{parser.prog} my.pth --from=timm --model=efficientnet-b0 --out=my.keras --classes=5",
    )
    group.add_argument("--classes", type=int, help="fail if the file has another number")
    group.add_argument("--no_top", action="store_true", help="omit the classifier")
    group = parser.add_group(
        "images that the weights were trained on",
        f"{parser.prog} my.pth --from=timm --model=efficientnet-b0 --out=my.keras "
        "--image_size=240 --crop=0.9 --normalization=half",
    )
    group.add_argument("--image_size", type=int, help="pixels a side of the images")
    group.add_argument(
        "--crop",
        type=_crop,
        help="how much of the shorter side of an image is used, in (0, 1]; or "
        f"{WHOLE}: the whole image, stretched",
    )
    group.add_argument("--interpolation", choices=INTERPOLATIONS, help="how images are resized")
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}",
            type=_constants,
            metavar="R,G,B",
            help=f"the {name} of the pixels by which they are normalized: one number or three. In "
            "[0, 255]; in [0, 1] if all of --mean and --std are at most 1, as in timm",
        )
    group.add_argument(
        "--normalization",
        choices=list(_NORMALIZATIONS),
        help="a usual mean and std: ImageNet's; [-1, 1]; (x - 128) / 128; (x - 127) / 128",
    )
    group = parser.add_group(
        "comparison of the outputs",
        f"{parser.prog} b0.h5 --from=qubvel --model=efficientnet-b0 --out=b0.keras --no_compare",
    )
    compare = group.add_mutually_exclusive_group()
    compare.add_argument(
        "--no_compare", action="store_true", help="do not run the other project's network"
    )
    compare.add_argument(
        "--require_compare",
        action="store_true",
        help="fail if the other project's network cannot be run",
    )


def run(options):
    """Runs the command with parsed options; ``ValueError`` or ``OSError`` for invalid input."""
    print(_import(options) if options.source else _export(options))


def _import(options):
    _check_out(options, ".keras")
    given = _given(options)
    if options.require_compare and why_not_comparable(options.source):
        raise ValueError(
            f"--require_compare: {why_not_comparable(options.source)}, so outputs cannot be "
            "compared. Install it, or drop the flag"
        )
    path = fetch_originals(options.path) if is_address(options.path) else options.path
    model, report = port(
        path,
        options.model,
        source=options.source,
        classes=options.classes,
        include_top=not options.no_top,
        given=given,
        compare=not options.no_compare,
        log=_progress,
    )
    worst = report.worst
    if worst is not None and not worst.relative <= TOLERANCE:  # also for NaN
        raise ValueError(
            f"{report}\nThe outputs differ by {worst.relative:.2e} at {worst.place}, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    if options.require_compare and report.not_compared:
        raise ValueError(f"--require_compare: {report.not_compared}: nothing was written")
    _progress(f"writing {options.out}")
    with replacing(options.out) as temporary:
        model.save(temporary)
    return "\n".join([str(report), f"{options.out} written", *_warnings(report)])


def _progress(line):
    print(f"effnet: {line}", file=sys.stderr, flush=True)


def _warnings(report):
    """What the user must know: settings that nothing states, and a skipped comparison."""
    assumed = [setting for setting in report.settings if setting.origin == ASSUMED]
    if assumed:
        yield "Warning: neither the file nor a config.json beside it states these settings. If"
        yield "the weights were trained with others, the predictions are wrong: give the flags."
        yield from (f"  assumed {setting}: correct it with --{setting.name}" for setting in assumed)
    if report.not_compared:
        yield f"Warning: the outputs were not compared: {report.not_compared}"


def _given(options) -> GivenSettings:
    """The settings in the flags; ``ValueError`` for flags that contradict each other."""
    mean, std = options.mean, options.std
    if options.normalization and (mean or std):
        raise ValueError("--normalization states mean and std: drop it, or --mean and --std")
    if options.normalization:
        constants = _NORMALIZATIONS[options.normalization]
        mean, std = constants.mean, constants.std
    elif max((*(mean or ()), *(std or ())), default=2) <= 1:
        mean, std = (v and tuple(255 * x for x in v) for v in (mean, std))
    return GivenSettings(options.image_size, options.crop, options.interpolation, mean, std)


def _crop(text):
    if text in (WHOLE, "0"):  # 0 as in the other commands
        return WHOLE
    crop = float(text)
    if not 0 < crop <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range: give one in (0, 1], or {WHOLE}")
    return crop


def _constants(text):
    values = tuple(float(word) for word in text.replace(",", " ").split())
    if len(values) not in (1, 3) or not all(0 <= value <= 255 for value in values):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one number nor three in [0, 255], e.g. 123.675,116.28,103.53"
        )
    return values * 3 if len(values) == 1 else values


def _export(options):
    flags = ("image_size", "crop", "interpolation", "mean", "std", "normalization", "classes")
    flags += ("no_top", "no_compare", "require_compare")
    used = [f"--{name}" for name in flags if getattr(options, name)]
    if used:
        raise ValueError(f"--to writes what the .keras file states: drop {', '.join(used)}")
    _check_out(options, ".safetensors")
    if not options.path.endswith(".keras"):
        raise ValueError(f"{options.path} is not a .keras file: --to takes a saved model")
    model = load_keras_file(options.path)
    export(model, options.out, target=options.target, name=options.model)
    return f"{options.out} written"


def _check_out(options, suffix):
    """``ValueError`` unless a file can be written without loss: weights are overwritten only if
    this command certainly wrote them.
    """
    if not options.out.endswith(suffix):
        raise ValueError(f"--out={options.out} does not end in {suffix}")
    folder = os.path.dirname(os.path.abspath(options.out))
    if not os.path.isdir(folder):
        raise ValueError(f"--out={options.out}: the folder {folder} does not exist")
    path = check_new(options.out, {"PATH": options.path})
    if os.path.lexists(path) and not (os.path.isfile(path) and _is_ours(path)):
        raise ValueError(
            f"--out={options.out} exists: it is not overwritten; give another name or delete it"
        )


def _is_ours(path):
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    return not head or (path.endswith(".safetensors") and GENERATOR.encode() in head)
