"""A .tflite image model from any tool: uint8 images in, scores or other values out, for every data
type of its input and outputs.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import metadata, ops, runner, runtime

_PASSED_THROUGH = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")
_UNREADABLE = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError)
_ARITHMETIC = ("ADD", "SUB", "MUL", "DIV")  # with a constant: the scale and bias of logits
_EMBEDDING_OPS = (
    *("MEAN", "L2_NORMALIZATION", "AVERAGE_POOL_2D", "MAX_POOL_2D", "REDUCE_MAX"),
    *("RELU", "RELU6", "LEAKY_RELU", "ELU", "GELU", "HARD_SWISH", "TANH"),
)
_MOST_VALUES = 4096  # of a map that are compared
_IMAGES_PER_THREAD = 16  # with fewer, building an interpreter costs more than it saves


@dataclass(frozen=True)
class Classifier:
    """A .tflite that takes one image and returns one score for each class, or other values."""

    tflite_model: bytes
    height: int  # pixels
    width: int
    classes: int  # columns of ``scores``
    output_activation: str  # "softmax" | "sigmoid" | "logits" | "embedding"
    output_scale: float  # scale of a quantized output; 0 for float32
    resized: bool  # the batch in the file is larger than 1
    mean: tuple[float, ...] = (0.0,)  # of the metadata: a float32 input gets (pixel - mean) / std
    std: tuple[float, ...] = (1.0,)
    channels: int = 3  # 3: RGB, 1: grey
    outputs: tuple[tuple[str, tuple[int, ...], slice], ...] = ()  # (name, shape, columns) of each
    strides: tuple[int, ...] = (1,)  # of each output: every n-th value is compared

    @property
    def is_classifier(self) -> bool:
        """Whether its only output has one score for each of two or more classes, so that top-1,
        agreement and KL divergence have a meaning.
        """
        if len(self.outputs) != 1 or self.output_activation == "embedding":
            return False
        return math.prod(self.outputs[0][1][:-1]) == 1 < self.classes


def open_classifier(tflite_model: bytes, name: str = "the model") -> Classifier:
    """The :class:`Classifier` of a .tflite.

    The last op determines the output activation: SOFTMAX gives the probabilities of one class,
    LOGISTIC an independent probability for each class ("sigmoid"), everything else logits.

    Args:
        tflite_model: bytes.
        name: of the model, for errors.

    Raises:
        ValueError: not a .tflite, a truncated file, or not an image model of batch 1 (or of a
            batch that can be resized to 1).
    """
    _require_complete(tflite_model, name)
    try:
        interpreter = runtime.interpreter(tflite_model)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1:]
        raise ValueError(f"{name} cannot be run: {' '.join(reason)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    shapes = [tuple(int(n) for n in d["shape"]) for d in (*inputs, *outputs)]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in (1, 3):
        named = ", ".join(f"{d['name']} {tuple(map(int, d['shape']))}" for d in inputs)
        raise ValueError(
            f"{name} has the inputs {named}; an image model has one, (1, height, width, "
            "3 or 1): make the others constants before the export"
        )
    for end, details in (("input", inputs[0]), *(("output", details) for details in outputs)):
        if details["dtype"] not in (np.float32, np.uint8, np.int8):
            raise ValueError(
                f"{name} has an {end} of {np.dtype(details['dtype'])}; float32, uint8 and int8 "
                "are supported: leave out e.g. the argmax at its end"
            )
    if any(len(shape) == 0 for shape in shapes):
        raise ValueError(
            f"{name} has an output without a batch axis, a single number: return one for each image"
        )
    if len({details["name"] for details in outputs}) < len(outputs):
        raise ValueError(
            f"{name} returns the same tensor as several of its {len(outputs)} outputs: return it "
            "once"
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
    described, strides = _outputs(tflite_model, outputs)
    scale = float(outputs[0]["quantization"][0])
    takes_floats = inputs[0]["dtype"] == np.float32
    mean, std = _normalization(tflite_model) if takes_floats else ((0.0,), (1.0,))
    return Classifier(
        tflite_model=tflite_model,
        height=shapes[0][1],
        width=shapes[0][2],
        classes=described[-1][2].stop,
        output_activation=output_activation(tflite_model),
        output_scale=0.0 if outputs[0]["dtype"] == np.float32 else scale,
        resized=resized,
        mean=mean,
        std=std,
        channels=shapes[0][3],
        outputs=described,
        strides=strides,
    )


def output_activation(tflite_model: bytes) -> str:
    """The output activation by the last ops of a .tflite: "softmax", "sigmoid" or "logits".

    "embedding" are the values of no classifier: pooled, normalized or flattened features, or those
    behind another activation.
    """
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(bytearray(tflite_model))
    graph = tree.subgraphs[0]
    producers = {int(i): op for op in graph.operators for i in op.outputs}
    inputs, index, scaled = set(map(int, graph.inputs)), int(graph.outputs[0]), False
    while index in producers:
        op = producers[index]
        name = tools.opcode_to_name(tree, op.opcodeIndex)
        computed = [int(i) for i in op.inputs if int(i) in producers or int(i) in inputs]
        if name in _EMBEDDING_OPS or (name in ("MUL", "DIV") and len(computed) > 1):
            return "embedding"
        if name in ops.WITH_WEIGHTS:
            *places, _ = (int(n) for n in graph.tensors[index].shape)
            is_linear = getattr(op.builtinOptions, "fusedActivationFunction", 0) == 0
            return "logits" if is_linear and math.prod(places) == 1 else "embedding"
        is_arithmetic = name in _ARITHMETIC
        if len(computed) != 1 or not (name in _PASSED_THROUGH or is_arithmetic):
            activation = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}.get(name, "logits")
            return "logits" if scaled else activation
        index, scaled = computed[0], scaled or is_arithmetic
    return "logits"


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


def open_interpreters(classifier: Classifier) -> list:
    """An interpreter for each processor, for :func:`scores` of one batch after another."""
    return [runner.open_interpreter(classifier.tflite_model) for _ in range(_processors())]


def scores(
    classifier: Classifier, images: np.ndarray, interpreters: Sequence | None = None
) -> np.ndarray:
    """Scores (n, classes) float32 of uint8 images (n, height, width, channels), dequantized.

    The values of several outputs, or of a map, are in one row; of a large map, every n-th. The
    images are computed one at a time on all processors; their number does not change a score.
    """
    rows = np.empty((len(images), classifier.classes), np.float32)
    if interpreters is None:
        computed = run(classifier, images, threads=_threads(len(images)))
    else:
        prepare = functools.partial(to_input, classifier)
        computed = runner.run_interpreters(interpreters, images, to_input=prepare)
    for row, values in zip(rows, computed):
        for key, stride, (_, _, columns) in zip(values, classifier.strides, classifier.outputs):
            row[columns] = values.real(key).reshape(-1)[::stride]
    return rows


def outputs(classifier: Classifier, images: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
    """All values of the outputs, float32 (n, ...) of uint8 images (n, height, width, channels); of
    several outputs {name: (n, ...)}.
    """
    columns = [np.empty((len(images), *shape), np.float32) for _, shape, _ in classifier.outputs]
    for i, values in enumerate(run(classifier, images, threads=_threads(len(images)))):
        for key, column in zip(values, columns):
            column[i] = values.real(key).reshape(column.shape[1:])
    if len(columns) == 1:
        return columns[0]
    return {name: column for (name, _, _), column in zip(classifier.outputs, columns)}


def _outputs(tflite_model, details):
    """((name, shape, columns) of each output, stride of each)."""
    tree = runtime.flatbuffer_tools().read_model_from_bytearray(bytearray(tflite_model))
    signatures = (tree.signatureDefs or [])[:1]
    names = {int(t.tensorIndex): t.name.decode() for s in signatures for t in s.outputs or []}
    described, strides, start = [], [], 0
    for row in details:
        shape = tuple(int(n) for n in row["shape"])
        size = math.prod(shape)
        channels = shape[-1] if shape else 1
        stride = -(-size // _MOST_VALUES) if size > channels else 1
        while math.gcd(stride, channels) > 1:  # values of every channel
            stride += 1
        strides.append(stride)
        stop = start + -(-size // strides[-1])
        name = names.get(int(row["index"]), row["name"])
        described.append((name, shape[1:], slice(start, stop)))
        start = stop
    return tuple(described), tuple(strides)


def run(classifier: Classifier, images: np.ndarray, tensors=None, *, threads: int = 1):
    """``runner.run`` with the images prepared as the model expects them."""
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
        runtime.flatbuffer_tools().read_model_from_bytearray(tflite_model)  # reads everything
        complete = max(ends, default=0) <= len(tflite_model)
    except _UNREADABLE:
        complete = False
    if not complete:
        raise ValueError(
            f"{name} is truncated or damaged ({len(tflite_model):,} bytes): convert or download it "
            "again"
        )


def _threads(images):
    return max(1, min(_processors(), images // _IMAGES_PER_THREAD))


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
