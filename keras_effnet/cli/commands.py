"""The commands of ``effnet``: their flags, and the functions that run them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keras_effnet.arguments import ArgumentParser
from keras_effnet.cli import card, cost, demo, evaluate, explain, port, predict, tables
from keras_effnet.variants import NETWORKS

# command -> (description, function that adds its arguments, function that runs it)
COMMANDS = {
    "models": (
        "list the variants: size, parameters, multiply-adds, published top-1",
        tables.add_pattern,
        tables.models,
    ),
    "plan": ("print every block of a variant", tables.add_name, tables.blocks),
    "weights": (
        "list the pretrained weights: preprocessing, normalization, published top-1",
        tables.add_pattern,
        tables.weights,
    ),
    "labels": (
        "write the names of ImageNet's 1,000 classes to a label file",
        tables.add_out,
        tables.labels,
    ),
    "cost": (
        "print parameters, multiply-adds and activation memory of a variant",
        cost.add_cost_arguments,
        cost.run_cost,
    ),
    "scale": (
        "scale a variant by the compound scaling rule",
        cost.add_scale_arguments,
        cost.run_scale,
    ),
    "port": (
        "convert another project's checkpoint to a .keras file, or a .keras file back",
        port.add_arguments,
        port.run,
    ),
    "predict": ("classify images", predict.add_arguments, predict.run),
    "evaluate": (
        "evaluate a classifier on labeled images: metrics, per class and per image",
        evaluate.add_arguments,
        evaluate.run,
    ),
    "card": (
        "write a model card for the Hugging Face Hub: data, recipe, metrics, limits",
        card.add_arguments,
        card.run,
    ),
    "demo": (
        "serve a local page: predictions, Grad-CAM, a .tflite beside its float model",
        demo.add_arguments,
        demo.run,
    ),
    "explain": (
        "show which parts of an image a prediction is based on",
        explain.add_arguments,
        explain.run,
    ),
}

NAMES = {
    "model": lambda: NETWORKS,
    "pattern": lambda: NETWORKS,
}  # that shells complete arguments to


def make_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(
        prog="effnet",
        description="EfficientNet V1, V2 and Lite: models, pretrained weights, costs, predictions.",
    )
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        title="commands",
        description="effnet predict cat.jpg --model=efficientnetv2-s",
    )
    for name, (description, add_arguments, _) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=description, description=description))
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failed check, 2 for bad input."""
    try:
        options = make_parser().parse_args(argv)
        return COMMANDS[options.command][2](options) or 0
    except BrokenPipeError:
        raise  # nobody reads the output
    except (ValueError, OSError, ImportError) as error:
        print(f"effnet: {error}", file=sys.stderr)
        return 2
