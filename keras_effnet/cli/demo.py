"""``effnet demo``: a local page that shows what a classifier sees in a photo."""

import argparse
import importlib.util
import os
import socket

from keras_effnet.cli.predict import add_model


def add_arguments(parser):
    """The flags of the command."""
    add_model(parser, f"{parser.prog} --model=efficientnetv2-b0")
    group = parser.add_group(
        "comparison", f"{parser.prog} --model=run1/model.keras --tflite=my.tflite"
    )
    group.add_argument("--tflite", help="a .tflite of the same model, to show beside it")
    group = parser.add_group("page", f"{parser.prog} --model=run1/model.keras --port=8080")
    group.add_argument("--port", type=_port, default=7860, help="port of the page")


def run(options):
    """Serves the page until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            "effnet demo needs gradio: pip install 'keras_effnet[demo]' (Python 3.10 or newer)"
        )
    if options.labels is not None and options.label_format:
        raise ValueError("--label_format is for ImageNet's names: drop it, or --labels")
    if options.tflite is not None and not options.tflite.endswith(".tflite"):
        raise ValueError(f"--tflite={options.tflite} is not a .tflite file")
    _require_free(options.port)
    from keras_effnet.demo.classification import open_demo

    print(f"Loading {options.model}", flush=True)
    demo = open_demo(
        options.model,
        options.weights,
        tflite=options.tflite,
        labels=options.labels,
        label_format=options.label_format,
    )
    from keras_effnet.demo.page import serve

    serve(demo, os.path.basename(options.model), options.port)


def _port(text):
    if not (text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number up to 65535")
    return int(text)


def _require_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"--port={port} cannot be used ({error.strerror}): give another one, e.g. 8080"
            ) from error
