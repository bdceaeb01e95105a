"""``effnet``: the tables on a terminal. ``effnet models``, ``effnet plan efficientnet-b3``."""

import argparse
import sys

from keras_effnet.cost import cost
from keras_effnet.plan import plan
from keras_effnet.variants import VARIANTS, list_models


def main(argv=None):
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="effnet",
        description="EfficientNet V1, V2 and Lite: what there is, and what it is made of.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    models = commands.add_parser(
        "models", help="the table of all variants: size, parameters, multiply-adds, published top-1"
    )
    models.add_argument("pattern", nargs="?", default="*", help="shell pattern, e.g. '*v2*'")
    blocks = commands.add_parser("plan", help="every block of one variant, resolved")
    blocks.add_argument("model", help="a name of `effnet models`")
    options = parser.parse_args(argv)
    try:
        print(_models(options.pattern) if options.command == "models" else plan(options.model))
    except ValueError as error:
        print(f"effnet: {error}", file=sys.stderr)
        return 2
    return 0


def _models(pattern):
    names = list_models(pattern)
    if not names:
        raise ValueError(f"No model matches {pattern!r}. Known: {', '.join(VARIANTS)}")
    lines = [
        f"{'model':<20}{'image size':>11}{'blocks':>8}{'parameters':>13}{'GMACs':>9}{'top-1 %':>9}"
    ]
    for name in names:
        v, p, c = VARIANTS[name], plan(name), cost(name)
        top1 = "-" if v.top1 is None else f"{v.top1:.1f}"
        lines.append(
            f"{name:<20}{p.image_size:>11}{len(p.blocks):>8}{c.parameters:>13,}"
            f"{c.macs / 1e9:>9.2f}{top1:>9}"
        )
    lines.append(
        "top-1: published, ImageNet-1k only (B8, L2 and XL were released with extra data alone)."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
