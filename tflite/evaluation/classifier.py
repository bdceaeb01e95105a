"""Any .tflite image classifier, ours or not, as what it does: uint8 images in, scores out, whatever
the number types of its input and output.
"""

import concurrent.futures
import os
import struct
from dataclasses import dataclass

import numpy as np

from tflite import litert
from tflite.flatbuffer import metadata, rewrite

_PASSED_THROUGH = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST")
_UNREADABLE = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError)
_IMAGES_A_THREAD = 16  # fewer are not worth an interpreter of their own


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
            outputs = _to_one_image(made)
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
        ending=_ending(rewrite.read_ops(content)),
        step=0.0 if outputs[0]["dtype"] == np.float32 else scale,
        resized=resized,
        mean=mean,
        std=std,
    )


def interpreter(classifier, *, num_threads=1, keep_tensors=False):
    """An allocated interpreter that takes one image."""
    made = litert.interpreter(
        classifier.content, num_threads=num_threads, keep_tensors=keep_tensors
    )
    if classifier.resized:
        _to_one_image(made)
    return made


def feed(classifier, made, image):
    """Puts a uint8 image (height, width, 3) in an interpreter's input, as the file's type has it.

    A uint8 input gets the pixels (what a phone's library does, whatever the scale), float32 the
    same numbers, normalised as the file's metadata says if it has any. An int8 input whose scale
    means pixels gets them quantized by it, any other the pixel minus 128.
    """
    details = made.get_input_details()[0]
    value = image[None]
    if details["dtype"] == np.float32:
        mean, std = (np.array(v, np.float32) for v in (classifier.mean, classifier.std))
        value = (value.astype(np.float32) - mean) / std
    elif details["dtype"] == np.int8:
        scale, zero = details["quantization"]
        if (127 - zero) * scale < 64:  # a scale of normalised values: the codes still span 0 to 255
            scale, zero = 1.0, -128
        value = np.clip(np.rint(value / scale + zero), -128, 127).astype(np.int8)
    made.set_tensor(details["index"], value)


def fetch(made):
    """The scores (classes,) in an interpreter's output, as real numbers."""
    details = made.get_output_details()[0]
    value = made.get_tensor(details["index"]).reshape(-1)
    if details["dtype"] == np.float32:
        return value
    scale, zero = details["quantization"]
    return ((value.astype(np.int32) - zero) * scale).astype(np.float32)


def scores(classifier, images):
    """Scores (n, classes) float32 of uint8 images (n, height, width, 3), one at a time.

    Every thread has an interpreter and a run of images of its own, so the result is the same on any
    number of processors.
    """
    threads = max(1, min(_processors(), len(images) // _IMAGES_A_THREAD))

    # Made one after the other: making one hides the native log, for the whole process.
    made = [interpreter(classifier) for _ in range(threads)]

    def run(made, part):
        rows = np.empty((len(part), classifier.classes), np.float32)
        for row, image in zip(rows, part):
            feed(classifier, made, image)
            made.invoke()
            row[:] = fetch(made)
        return rows

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(run, made, np.array_split(images, threads))))


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


def _to_one_image(made):
    details = made.get_input_details()[0]
    made.resize_tensor_input(details["index"], [1, *(int(n) for n in details["shape"][1:])])
    made.allocate_tensors()
    return made.get_output_details()


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
