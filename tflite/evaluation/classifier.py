"""A .tflite image classifier from any tool: uint8 images in, scores out, for every data type of its
input and output.
"""

from __future__ import annotations

import functools
import os
import struct
from dataclasses import dataclass

import numpy as np

from tflite import litert
from tflite.flatbuffer import metadata, ops, runner

_PASSED_THROUGH = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")
_UNREADABLE = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError)
_IMAGES_PER_THREAD = 16  # with fewer, building an interpreter costs more than it saves


@dataclass(frozen=True)
class Classifier:
    """A .tflite that takes one image and returns one score for each class."""

    tflite_model: bytes
    height: int  # pixels
    width: int
    classes: int
    output_activation: str  # "softmax" | "sigmoid" | "logits"
    output_scale: float  # scale of a quantized output; 0 for float32
    resized: bool  # the batch in the file is larger than 1
    mean: tuple[float, ...] = (0.0,)  # of the metadata: a float32 input gets (pixel - mean) / std
    std: tuple[float, ...] = (1.0,)
    channels: int = 3  # 3: RGB, 1: grey


def open_classifier(tflite_model: bytes, name: str = "the model") -> Classifier:
    """The :class:`Classifier` of a .tflite.

    The last op determines the output activation: SOFTMAX gives the probabilities of one class,
    LOGISTIC an independent probability for each class ("sigmoid"), everything else logits.

    Args:
        tflite_model: bytes.
        name: of the model, for errors.

    Raises:
        ValueError: not a .tflite, a truncated file, or not an image classifier of batch 1 (or of a
            batch that can be resized to 1).
    """
    _require_complete(tflite_model, name)
    try:
        interpreter = litert.interpreter(tflite_model)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1:]
        raise ValueError(f"{name} cannot be run: {' '.join(reason)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    shapes = [tuple(int(n) for n in d["shape"]) for d in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in (1, 3):
        raise ValueError(
            f"{name} has inputs and outputs of shapes {shapes}; an image classifier has one input "
            "(1, height, width, 3 or 1) and one output (1, classes)"
        )
    for end, details in (("input", inputs[0]), ("output", outputs[0])):
        if details["dtype"] not in (np.float32, np.uint8, np.int8):
            raise ValueError(
                f"{name} has an {end} of {np.dtype(details['dtype'])}; float32, uint8 and int8 "
                "are supported"
            )
    resized = shapes[0][0] != 1
    if resized:
        try:
            outputs = runner.open_interpreter(tflite_model).get_output_details()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{name} takes {shapes[0][0]} images at a time and cannot be resized to 1: export "
                "it with a batch of 1"
            ) from error
    shape = tuple(int(n) for n in outputs[0]["shape"])
    if len(shape) < 2 or any(n != 1 for n in shape[:-1]) or shape[-1] < 1:
        raise ValueError(f"{name} has an output of shape {shape}; a classifier has (1, classes)")
    scale = float(outputs[0]["quantization"][0])
    takes_floats = inputs[0]["dtype"] == np.float32
    mean, std = _normalization(tflite_model) if takes_floats else ((0.0,), (1.0,))
    return Classifier(
        tflite_model=tflite_model,
        height=shapes[0][1],
        width=shapes[0][2],
        classes=shape[-1],
        output_activation=output_activation(tflite_model),
        output_scale=0.0 if outputs[0]["dtype"] == np.float32 else scale,
        resized=resized,
        mean=mean,
        std=std,
        channels=shapes[0][3],
    )


def output_activation(tflite_model: bytes) -> str:
    """The output activation by the last op of a .tflite: "softmax", "sigmoid" or "logits"."""
    rows = ops.read_ops(tflite_model)
    last = next((op.name for op in reversed(rows) if op.name not in _PASSED_THROUGH), "")
    return {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(last, "logits")


def to_input(classifier: Classifier, image: np.ndarray, details: dict) -> np.ndarray:
    """The value of a model's input for one uint8 image (height, width, 3).

    uint8 inputs get the pixels (as mobile libraries do, whatever the scale), float32 inputs the
    pixels normalized by the file's metadata, if any. An int8 input gets the pixels quantized by its
    scale if that scale covers pixel values, and the pixels minus 128 otherwise.

    Args:
        classifier: the :class:`Classifier`.
        image: uint8 (height, width, 3).
        details: LiteRT's details of the input.
    """
    value = image[None]
    if details["dtype"] == np.float32:
        mean, std = (np.array(v, np.float32) for v in (classifier.mean, classifier.std))
        return (value.astype(np.float32) - mean) / std
    if details["dtype"] == np.int8:
        scale, zero = details["quantization"]
        if (127 - zero) * scale < 64:  # a scale of normalized values: int8 spans pixels 0 to 255
            scale, zero = 1.0, -128
        return np.clip(np.rint(value / scale + zero), -128, 127).astype(np.int8)
    return value


def scores(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Scores (n, classes) float32 of uint8 images (n, height, width, 3), dequantized.

    The images are computed one at a time on all processors; their number does not change a score.
    """
    threads = max(1, min(_processors(), len(images) // _IMAGES_PER_THREAD))
    rows = np.empty((len(images), classifier.classes), np.float32)
    for row, values in zip(rows, run(classifier, images, threads=threads)):
        row[:] = values.real(next(iter(values))).reshape(-1)
    return rows


def run(classifier: Classifier, images: np.ndarray, tensors=None, *, threads: int = 1):
    """``flatbuffer.runner.run`` with the images prepared as the model expects them."""
    return runner.run(
        classifier.tflite_model,
        images,
        tensors,
        threads=threads,
        to_input=functools.partial(to_input, classifier),
    )


def _normalization(tflite_model):
    """(mean, std) of a file's metadata; default 0 and 1."""
    try:
        described = metadata.read(tflite_model)
    except ValueError:
        described = None  # damaged, or of another format: mobile libraries do not read it either
    if described is None:
        return (0.0,), (1.0,)
    return tuple(described.mean or (0.0,)), tuple(described.std or (1.0,))


def _require_complete(tflite_model, name):
    """``ValueError`` for a truncated file. The runtime maps a file without reading all of it, and
    may crash where the end is missing.
    """
    if len(tflite_model) < 8 or tflite_model[4:8] != b"TFL3":
        raise ValueError(f"{name} is not a .tflite file (TFL3 is missing at its start)")
    try:
        ends = [end for _, end in ops.buffer_ranges(tflite_model).values()]
        litert.flatbuffer_tools().read_model_from_bytearray(tflite_model)  # reads everything
        complete = max(ends, default=0) <= len(tflite_model)
    except _UNREADABLE:
        complete = False
    if not complete:
        raise ValueError(
            f"{name} is truncated or damaged ({len(tflite_model):,} bytes): convert or download it "
            "again"
        )


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
