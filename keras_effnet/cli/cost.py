"""``effnet cost`` and ``effnet scale``: flags and output."""

import os

from keras_effnet.atomic_write import check_writable
from keras_effnet.model_cost import cost
from keras_effnet.scaling import PAPER, Coefficients, family, scale
from keras_effnet.variant_file import read_variant, write_variant

_PRECISIONS = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}  # bytes for each value


def add_cost_arguments(parser):
    """The flags of ``effnet cost``."""
    group = parser.add_group(
        "network", f"{parser.prog} efficientnet-b3 --image_size=240 --classes=10"
    )
    group.add_argument("model", help="a name of `effnet models`")
    group.add_argument("--image_size", type=int, help="pixels a side (default: the model's)")
    group.add_argument("--classes", type=int, default=1000, help="number of classes")
    group.add_argument("--no_top", action="store_true", help="omit the classifier")
    group = parser.add_group(
        "activations", f"{parser.prog} efficientnet-b3 --batch_size=32 --precision=bfloat16"
    )
    group.add_argument(
        "--batch_size", type=int, default=1, help="number of images, for the activations"
    )
    group.add_argument(
        "--precision", choices=_PRECISIONS, default="float32", help="data type of the activations"
    )


def run_cost(options):
    """Prints the cost of a network."""
    c = cost(
        options.model,
        image_size=options.image_size,
        batch_size=options.batch_size,
        classes=options.classes,
        include_top=not options.no_top,
        bytes_per_value=_PRECISIONS[options.precision],
    )
    images = "1 image" if c.batch_size == 1 else f"{c.batch_size} images"
    print(f"{options.model} at {c.image_size} px")
    print(f"{'parameters':<22}{c.parameters:>16,}   {c.trainable:,} of them trainable")
    print(f"{'multiply-adds':<22}{c.macs:>16,}   {c.macs / 1e9:.3f} G, one image")
    print(
        f"{'activations':<22}{c.activation_bytes:>16,}   bytes: outputs of the convolutions, "
        f"{images}, {options.precision}"
    )


def add_scale_arguments(parser):
    """The flags of ``effnet scale``."""
    group = parser.add_group("by the compound coefficient", f"{parser.prog} efficientnet-b0 3")
    group.add_argument("model", help="the variant to scale: a name of `effnet models`")
    group.add_argument(
        "phi",
        nargs="?",
        type=float,
        help="the compound coefficient; without it and without dimensions, prints the family, "
        "rule and published networks side by side",
    )
    group = parser.add_group(
        "by dimension", f"{parser.prog} efficientnet-b0 --width=1.2 --image_size=240"
    )
    group.add_argument("--width", type=float, help="factor on the filters, instead of phi")
    group.add_argument("--depth", type=float, help="factor on the repeats, instead of phi")
    group.add_argument("--image_size", type=int, help="pixels a side, instead of phi")
    group = parser.add_group("result", f"{parser.prog} efficientnet-b0 3 --out=my.json")
    group.add_argument(
        "--out", help="also write the network as a .json file, which --model flags accept"
    )
    group = parser.add_group("the rule", f"{parser.prog} efficientnet-b0 3 --alpha=1.3 --gamma=1.1")
    for name, dimension in (("alpha", "depth"), ("beta", "width"), ("gamma", "image size")):
        group.add_argument(
            f"--{name}",
            type=float,
            default=getattr(PAPER, name),
            help=f"factor on the {dimension} for one unit of phi (default: the paper's "
            "%(default)s)",
        )


def run_scale(options):
    """Prints a scaled network, or the table of its family."""
    coefficients = Coefficients(options.alpha, options.beta, options.gamma)
    dimensions = (options.width, options.depth, options.image_size)
    if options.phi is None and dimensions == (None, None, None):
        if options.out is not None:
            raise ValueError(
                f"--out={options.out} needs one network: give phi, or some of --width, --depth "
                "and --image-size"
            )
        print(family_table(family(options.model, coefficients=coefficients)))
        return
    v = scale(
        options.model,
        options.phi,
        width=options.width,
        depth=options.depth,
        image_size=options.image_size,
        coefficients=coefficients,
    )
    if options.out is not None:
        _check_out(options.out)
        write_variant(options.out, v)
    c = cost(v)
    print(
        f"{v.name}: width {v.width:g}, depth {v.depth:g}, {v.image_size} px, {c.parameters:,} "
        f"parameters, {c.macs / 1e9:.2f} GMACs"
    )


def _check_out(path):
    """Raises ``ValueError`` for a path that cannot be written, or has something else."""
    if not path.endswith(".json"):
        raise ValueError(f"--out={path} must end with .json, by which --model flags recognize it")
    check_writable(path)
    if os.path.lexists(path):
        try:
            read_variant(path)
        except ValueError:
            raise ValueError(
                f"--out={path} exists and is not a network that effnet wrote: it is not "
                "overwritten; give another name or delete it"
            ) from None


def family_table(members):
    """The members of :func:`keras_effnet.scaling.family` as an aligned table."""
    lines = [
        f"{'phi':>4}{'width':>8}{'depth':>7}{'size':>6}{'parameters':>13}{'GMACs':>8}"
        f"   {'published as':<18}{'width':>8}{'depth':>7}{'size':>6}{'parameters':>13}{'GMACs':>8}"
    ]
    for m in members:
        line = f"{m.phi:>4g}{_numbers(m.rule, m.rule_cost, digits=2)}"
        if m.published is not None:
            line += f"   {m.published.name:<18}{_numbers(m.published, m.published_cost, digits=1)}"
        lines.append(line)
    return "\n".join(lines)


def _numbers(v, c, digits):
    return (
        f"{v.width:>8.{digits}f}{v.depth:>7.{digits}f}{v.image_size:>6}{c.parameters:>13,}"
        f"{c.macs / 1e9:>8.2f}"
    )
