"""``effnet port``: another project's weights as a ``.keras`` file, or the reverse."""

from __future__ import annotations

import os
import zipfile

from keras_effnet.atomic_write import check_new, replacing
from keras_effnet.porting import PROJECTS, export, port
from keras_effnet.porting.pytorch import GENERATOR
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
    parser.add_argument("path", help="a file of the other project, or a .keras file with --to")
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        "--from", dest="source", choices=list(PROJECTS), help="the file's project"
    )
    direction.add_argument(
        "--to",
        dest="target",
        choices=[name for name, project in PROJECTS.items() if project.write is not None],
        help="write a .keras file as that project's state dict",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="the network, by its name there (tf_efficientnet_b0) or here (efficientnet-b0)",
    )
    parser.add_argument("--out", required=True, help="x.keras; with --to x.safetensors")
    parser.add_argument("--classes", type=int, help="fail if the file has another number")
    parser.add_argument("--no_top", action="store_true", help="omit the classifier")
    parser.add_argument(
        "--normalization",
        choices=list(_NORMALIZATIONS),
        help="what these weights expect, if not the project's usual: ImageNet's mean and standard "
        "deviation; [-1, 1]; (x - 128) / 128; (x - 127) / 128",
    )
    parser.add_argument("--image_size", type=int, help="pixels a side of the model")
    parser.add_argument(
        "--no_compare", action="store_true", help="do not run the other project's network"
    )


def run(options):
    """Runs the command with parsed options; ``ValueError`` or ``OSError`` for invalid input."""
    print(_import(options) if options.source else _export(options))


def _import(options):
    _check_out(options, ".keras")
    model, report = port(
        options.path,
        options.model,
        source=options.source,
        classes=options.classes,
        include_top=not options.no_top,
        normalization=_NORMALIZATIONS.get(options.normalization),
        image_size=options.image_size,
        compare=not options.no_compare,
    )
    worst = report.worst
    if worst is not None and not worst.relative <= TOLERANCE:  # also for NaN
        raise ValueError(
            f"{report}\nThe outputs differ by {worst.relative:.2e} at {worst.place}, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    with replacing(options.out) as temporary:
        model.save(temporary)
    return f"{report}\n{options.out} written"


def _export(options):
    import keras

    _check_out(options, ".safetensors")
    if not options.path.endswith(".keras") or not zipfile.is_zipfile(options.path):
        raise ValueError(f"{options.path} is not a .keras file: --to takes a saved model")
    try:
        model = keras.saving.load_model(options.path, compile=False)  # safe mode: runs no code
    except (KeyError, TypeError) as error:
        raise ValueError(f"{options.path} cannot be read as a .keras file: {error}") from error
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
