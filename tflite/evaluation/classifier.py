"""Any .tflite image classifier, ours or not, as what it does: uint8 images in, scores out, whatever
the number types of its input and output.
"""

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
    """A .tflite in bytes that takes one image and gives one score a class."""

    content: bytes
    height: int  # pixels
    width: int
    classes: int
    ending: str  # what its scores are: "softmax" | "sigmoid" | "logits"
    step: float  # distance of two neighbouring scores of a quantized output; 0 for float32
    resized: bool  # its own batch is larger than 1
    mean: "tuple[float, ...]" = (0.0,)  # a float32 input gets (pixel - mean) / std: its metadata
    std: "tuple[float, ...]" = (1.0,)


def open_classifier(content, name="the model"):
    """The :class:`Classifier` of a .tflite in bytes.

    The last op says what the scores are: SOFTMAX gives probabilities of one answer, LOGISTIC gives
    probabilities of a yes or no a class, everything else gives logits.

    Raises ``ValueError`` for bytes that are no .tflite, are truncated, or hold something else than
    an image classifier of batch 1 (or one that can be resized to it).
    """
    _require_whole(content, name)
    try:
        made = litert.interpreter(content)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1:]
        raise ValueError(f"{name} cannot be run: {' '.join(reason)}") from error
    inputs, outputs = made.get_input_details(), made.get_output_details()
    shapes = [tuple(int(n) for n in d["shape"]) for d in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
        raise ValueError(
            f"{name} has inputs and outputs of shapes {shapes}; an image classifier has one input "
            "(1, height, width, 3) and one output (1, classes)"
        )
    for what, details in (("input", inputs[0]), ("output", outputs[0])):
        if details["dtype"] not in (np.float32, np.uint8, np.int8):
            raise ValueError(
                f"{name} has an {what} of {np.dtype(details['dtype'])}; float32, uint8 and int8 "
                "are known"
            )
    resized = shapes[0][0] != 1
    if resized:
        try:
            outputs = runner.open_interpreter(content).get_output_details()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{name} takes {shapes[0][0]} images at a time and cannot be resized to 1: export "
                "it with a batch of 1"
            ) from error
    shape = tuple(int(n) for n in outputs[0]["shape"])
    if len(shape) < 2 or any(n != 1 for n in shape[:-1]) or shape[-1] < 1:
        raise ValueError(f"{name} gives {shape}; a classifier gives (1, classes)")
    scale = float(outputs[0]["quantization"][0])
    takes_floats = inputs[0]["dtype"] == np.float32
    mean, std = _normalization(content) if takes_floats else ((0.0,), (1.0,))
    return Classifier(
        content=content,
        height=shapes[0][1],
        width=shapes[0][2],
        classes=shape[-1],
        ending=_ending(ops.read_ops(content)),
        step=0.0 if outputs[0]["dtype"] == np.float32 else scale,
        resized=resized,
        mean=mean,
        std=std,
    )


def to_input(classifier, image, details):
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


def scores(classifier, images):
    """Scores (n, classes) float32 of uint8 images (n, height, width, 3), dequantized.

    The images are computed one at a time on all processors; their number does not change a score.
    """
    threads = max(1, min(_processors(), len(images) // _IMAGES_PER_THREAD))
    rows = np.empty((len(images), classifier.classes), np.float32)
    for row, values in zip(rows, run(classifier, images, threads=threads)):
        row[:] = values.real(next(iter(values))).reshape(-1)
    return rows


def run(classifier, images, tensors=None, *, threads=1):
    """``flatbuffer.runner.run`` with the images prepared as the model expects them."""
    return runner.run(
        classifier.content,
        images,
        tensors,
        threads=threads,
        to_input=functools.partial(to_input, classifier),
    )


def _ending(ops):
    last = next((op.name for op in reversed(ops) if op.name not in _PASSED_THROUGH), "")
    return {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(last, "logits")


def _normalization(content):
    """(mean, std) of a file's metadata; what it does not say is 0 and 1."""
    try:
        found = metadata.read(content)
    except ValueError:
        found = None  # damaged, or of another format: phones' libraries read no more of it
    if found is None:
        return (0.0,), (1.0,)
    return tuple(found.mean or (0.0,)), tuple(found.std or (1.0,))


def _require_whole(content, name):
    """The runtime maps a file without reading it through, and may crash where its end lacks."""
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise ValueError(f"{name} is not a .tflite file (TFL3 is not at its start)")
    try:
        tree = litert.flatbuffer_tools().Model.GetRootAs(content, 0)
        ends = [0]
        for index in range(tree.BuffersLength()):
            buffer = tree.Buffers(index)
            if buffer.Offset():
                ends.append(buffer.Offset() + buffer.Size())
            elif buffer.DataLength():
                start = buffer._tab.Vector(buffer._tab.Offset(4))
                ends.append(start + buffer.DataLength())
        litert.flatbuffer_tools().read_model_from_bytearray(content)  # all of it
        whole = max(ends) <= len(content)
    except _UNREADABLE:
        whole = False
    if not whole:
        raise ValueError(
            f"{name} is truncated or damaged: {len(content):,} bytes are not all of it"
        )


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
