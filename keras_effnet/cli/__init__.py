"""``effnet``: what there is, what it costs, and what a network says of an image."""

import sys

from keras_effnet.arguments import ArgumentParser
from keras_effnet.cli import cost, explain, port, predict, tables
from keras_effnet.native_logs import filter_native_logs

# command -> (what it is for, its arguments, what it does)
_COMMANDS = {
    "models": (
        "the table of all variants: size, parameters, multiply-adds, published top-1",
        tables.add_pattern,
        tables.models,
    ),
    "plan": ("every block of one variant, resolved", tables.add_name, tables.blocks),
    "weights": (
        "the table of all released weight sets: what they expect, what they scored",
        tables.add_pattern,
        tables.weights,
    ),
    "cost": (
        "parameters, multiply-adds and activation memory of one variant",
        cost.add_cost_arguments,
        cost.run_cost,
    ),
    "scale": (
        "a variant made larger or smaller by the compound scaling rule",
        cost.add_scale_arguments,
        cost.run_scale,
    ),
    "port": (
        "another project's checkpoint as a .keras file of ours, or back",
        port.add_arguments,
        port.run,
    ),
    "predict": ("what a network sees in images", predict.add_arguments, predict.run),
    "explain": (
        "where in an image a network's answer comes from, as a picture",
        explain.add_arguments,
        explain.run,
    ),
}


def main(argv=None):
    """Runs one command; returns the exit status."""
    if argv is None:  # run as a program
        filter_native_logs()
    parser = ArgumentParser(
        prog="effnet",
        description="EfficientNet V1, V2 and Lite: what there is, and what it is made of.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (purpose, add_arguments, _) in _COMMANDS.items():
        add_arguments(commands.add_parser(name, help=purpose, description=purpose))
    try:
        options = parser.parse_args(sys.argv[1:] if argv is None else argv)
        _COMMANDS[options.command][2](options)
    except (ValueError, OSError) as error:
        print(f"effnet: {error}", file=sys.stderr)
        return 2
    return 0
