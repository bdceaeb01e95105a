"""Signal-to-quantization-noise ratio (SQNR) of each block of a network."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import classifier, ops, runner

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_BLOCK = re.compile(r"(?<![a-z0-9])block(\d+)([a-z]+)_")
_OUTSIDE_BLOCKS = (  # layer name -> group
    (re.compile(r"(?<![a-z0-9])stem_"), "stem"),
    (re.compile(r"(?<![a-z0-9])top_(conv|bn|activation)"), "top"),
    (re.compile(r"(?<![a-z0-9])(avg_pool|top_dropout|predictions|probs|head)"), "head"),
    (re.compile(r"(?<![a-z0-9])(rescaling|normalization)"), "input"),
)
_GROUPS = 16  # of a network without known tensor names
_MAX_DB = 120.0  # above: rounding of float32

# Equalization rescaled a tensor if many of its channels are copies of the float ones (squared
# correlation above _COPY) with different factors. Quantization errors are alike in all channels or
# leave few copies: files without equalization have no such tensors.
_COPY, _SHARE, _SPREAD = 0.9, 0.5, 0.25  # correlation, share of channels, std of log factors
_BOUNDED = ("LOGISTIC", "SOFTMAX", "TANH")  # cannot be rescaled


@dataclass(frozen=True)
class TensorSQNR:
    """SQNR of one tensor of the reference model."""

    name: str
    sqnr_db: float  # median of the images, at most 120
    rescaled: bool  # equalization rescaled its channels; this is undone first


@dataclass(frozen=True)
class BlockSQNR:
    """SQNR of the tensors of one block, e.g. "block2a", in execution order."""

    name: str
    tensors: tuple[TensorSQNR, ...]

    @property
    def sqnr_db(self) -> float:
        """Of the block's output, its last tensor."""
        return self.tensors[-1].sqnr_db

    @property
    def worst(self) -> TensorSQNR:
        """The tensor with the lowest SQNR."""
        return min(self.tensors, key=lambda tensor: tensor.sqnr_db)


def sqnr_by_block(
    reference: classifier.Classifier, candidate: classifier.Classifier, images: np.ndarray
) -> tuple[BlockSQNR, ...]:
    """A :class:`BlockSQNR` for each block, in execution order; () for files of different graphs.

    SQNR is the power of the reference's values over the power of the candidate's error, in dB. At
    20 dB the error is a tenth of the values.

    Tensors are matched by name, which quantizers keep, or else by position in the same sequence of
    ops. Where equalization rescaled the channels of a tensor (the next op undoes it), least squares
    scale them back first, and ``rescaled`` is True.

    Args:
        reference: usually the float32 model.
        candidate: a model of the same image size.
        images: uint8 (n, height, width, 3) of their size; a few dozen are enough.
    """
    models = (reference, candidate)
    pairs = _pairs(*(model.tflite_model for model in models))
    if not pairs or (reference.height, reference.width) != (candidate.height, candidate.width):
        return ()
    shapes = [runner.tensor_shapes(model.tflite_model) for model in models]
    pairs = [p for p in pairs if shapes[0][p[1]] == shapes[1][p[2]] and len(shapes[0][p[1]]) > 1]

    def values(rows):
        """(row, reference values, candidate values) of every image and row of `pairs`."""
        indices = [[pairs[row][which] for row in rows] for which in (1, 2)]
        runs = (classifier.run(*each) for each in zip(models, [images] * 2, indices))
        for a, b in zip(*runs):
            for row in rows:
                yield row, _real(a, pairs[row][1]), _real(b, pairs[row][2])

    everything = range(len(pairs))
    decibels = [[] for _ in pairs]
    moments = [0.0] * len(pairs)
    for row, x, y in values(everything):
        decibels[row].append(_decibels(x, y))
        sums = np.stack([np.einsum("ij,ij->j", a, b) for a, b in ((x, x), (x, y), (y, y))])
        moments[row] += sums / (sums[0].sum() or 1.0)  # every image has the same weight
    free = [row for row in everything[:-1] if pairs[row][3] not in _BOUNDED]  # not the scores
    factors = {row: _factors(*moments[row]) for row in free}
    factors = {row: f for row, f in factors.items() if f is not None}
    for row in factors:
        decibels[row] = []
    for row, x, y in values(sorted(factors)) if factors else ():
        decibels[row].append(_decibels(x, y * factors[row]))
    return _grouped(
        [
            TensorSQNR(name, float(np.median(decibels[row])), row in factors)
            for row, (name, *_) in enumerate(pairs)
        ]
    )


def _pairs(reference, candidate):
    """(name, index in the reference, index in the candidate, op) of the op outputs that both have,
    in the reference's order.
    """
    a, b = (
        [op for op in ops.read_ops(tflite_model) if op.name not in _CONVERSIONS]
        for tflite_model in (reference, candidate)
    )
    indices = {op.output: op.index for op in b}
    named = [(op.output, op.index, indices[op.output], op.name) for op in a if op.output in indices]
    if len(named) * 2 >= len(a):
        return named
    if [op.name for op in a] != [op.name for op in b]:
        return []
    return [(x.output, x.index, y.index, x.name) for x, y in zip(a, b)]


def _real(tensors, index):
    """(values, channels) float32."""
    scale, zero = tensors.quantization(index)
    value = tensors[index].astype(np.float32)
    if scale:
        value = (value - np.float32(zero)) * np.float32(scale)
    return value.reshape(-1, value.shape[-1])


def _decibels(x, y):
    """Power of x over power of x - y."""
    signal, noise = (float(np.dot(v, v)) for v in (x.ravel(), (x - y).ravel()))
    if signal <= 0:
        return _MAX_DB if noise <= 0 else 0.0
    return min(_MAX_DB, 10 * math.log10(signal / max(noise, 1e-30 * signal)))


def _factors(xx, xy, yy):
    """Factors that scale each channel of y back to x, from the sums of x*x, x*y and y*y; None for
    a tensor that was not rescaled.
    """
    explained = np.divide(xy * xy, yy, out=np.zeros_like(yy), where=yy > 0)
    copies = (explained > _COPY * xx) & (xy > 0)
    log_scales = np.log(xy[copies] / xx[copies])
    if len(log_scales) < max(4, _SHARE * len(xx)) or float(np.std(log_scales)) <= _SPREAD:
        return None
    return np.divide(xy, yy, out=np.zeros_like(yy), where=yy > 0)


def _grouped(tensors):
    names = [group_of(tensor.name) for tensor in tensors]
    if len({name for name in names if name}) < 3:
        size = -(-len(tensors) // _GROUPS)
        names = [
            f"ops {i // size * size + 1}-{min(len(tensors), (i // size + 1) * size)}"
            for i in range(len(tensors))
        ]
    else:
        known = next(name for name in names if name)
        for i, name in enumerate(names):  # an unknown name belongs to the group before it
            known = names[i] = name or known
        if tensors[-1].name.startswith("StatefulPartitionedCall"):
            names[-1] = "head"
    rows = itertools.groupby(zip(names, tensors), key=lambda pair: pair[0])
    return tuple(BlockSQNR(name, tuple(tensor for _, tensor in pairs)) for name, pairs in rows)


def group_of(name: str) -> str:
    """The group of a tensor by its name: "block2a", "stem", "top", "head" or "input"; "" if the
    name is unknown.
    """
    match = _BLOCK.search(name)
    if match:
        return f"block{match[1]}{match[2]}"
    return next((group for pattern, group in _OUTSIDE_BLOCKS if pattern.search(name)), "")
