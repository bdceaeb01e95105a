"""``effnet port``: another project's weights into a ``.keras`` file, and the way back."""

import contextlib
import os
import tempfile
import zipfile

from keras_effnet.porting import SOURCES, export, port
from keras_effnet.porting.pytorch import HALF
from keras_effnet.variants import VARIANTS

TOLERANCE = 1e-3  # relative; above it nothing is written

_NORMALIZATIONS = {
    "imagenet": VARIANTS["efficientnet-b0"].normalization,
    "half": HALF,
    "128": VARIANTS["efficientnetv2-s"].normalization,
    "127": VARIANTS["efficientnet-lite0"].normalization,
}


def add_arguments(parser):
    """Adds the command's arguments to an ``argparse`` parser."""
    parser.description = (
        "Converts another project's weights and reports how far the answers are from that "
        "project's own network, block by block."
    )
    parser.add_argument("path", help="a file of the other project, or a .keras file with --to")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", choices=list(SOURCES), help="whose file it is")
    way.add_argument(
        "--to",
        dest="target",
        choices=[name for name, row in SOURCES.items() if row.write is not None],
        help="write a .keras file as that project's state dict",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="the network, by its name there (tf_efficientnet_b0) or here (efficientnet-b0)",
    )
    parser.add_argument("--out", required=True, help="x.keras; with --to x.safetensors")
    parser.add_argument("--classes", type=int, help="fail unless the file has so many")
    parser.add_argument("--no_top", action="store_true", help="leave the classifier out")
    parser.add_argument(
        "--normalization",
        choices=list(_NORMALIZATIONS),
        help="what these weights expect, if not the source's usual: ImageNet's mean and standard "
        "deviation; [-1, 1]; (x - 128) / 128; (x - 127) / 128",
    )
    parser.add_argument("--image_size", type=int, help="pixels a side of the model")
    parser.add_argument(
        "--no_compare", action="store_true", help="do not run the other project's network"
    )


def run(options):
    """Runs the command with parsed options; ``ValueError`` or ``OSError`` for what cannot work."""
    print(_import(options) if options.source else _export(options))


def _import(options):
    with _written_whole(options.out, ".keras") as temporary:
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
        if worst is not None and not worst.relative <= TOLERANCE:  # NaN is not
            raise ValueError(
                f"{report}\nThe answers differ by {worst.relative:.2e} at {worst.place}, more than "
                f"{TOLERANCE:g}: nothing was written"
            )
        model.save(temporary)
    return f"{report}\n{options.out} written"


def _export(options):
    import keras

    with _written_whole(options.out, ".safetensors") as temporary:
        if not options.path.endswith(".keras") or not zipfile.is_zipfile(options.path):
            raise ValueError(f"{options.path} is not a .keras file: --to writes whole models")
        try:
            model = keras.saving.load_model(options.path, compile=False)  # safe: runs no code
        except (KeyError, TypeError) as error:
            raise ValueError(f"{options.path} cannot be read as a .keras file: {error}") from error
        export(model, temporary, target=options.target, name=options.model)
    return f"{options.out} written"


@contextlib.contextmanager
def _written_whole(path, ending):
    """A place beside `path` to write to, that takes its name only when all went well."""
    folder, name = os.path.split(os.path.abspath(path))
    if not name.endswith(ending):
        raise ValueError(f"--out={path} does not end in {ending}")
    if not os.path.isdir(folder):
        raise ValueError(f"--out={path}: there is no folder {folder}")
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as temporary:
        part = os.path.join(temporary, name)
        yield part
        os.replace(part, path)
