"""Block by block, how much of the float model's signal a converted file keeps."""

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np

from tflite.evaluation import classifier
from tflite.flatbuffer import ops, runner

_HANDED_OVER = ("QUANTIZE", "DEQUANTIZE")
_BLOCK = re.compile(r"(?<![a-z0-9])block(\d+)([a-z]+)_")
_ENDS = (  # layer name -> group, of EfficientNets' ends
    (re.compile(r"(?<![a-z0-9])stem_"), "stem"),
    (re.compile(r"(?<![a-z0-9])top_(conv|bn|activation)"), "top"),
    (re.compile(r"(?<![a-z0-9])(avg_pool|top_dropout|predictions|probs|head)"), "head"),
    (re.compile(r"(?<![a-z0-9])(rescaling|normalization)"), "input"),
)
_GROUPS = 16  # of a network whose names say nothing
_CEILING = 120.0  # dB: beyond it is float's own rounding

# A tensor was rescaled on purpose if many of its channels are copies of the float ones (squared
# correlation above _COPY) with factors of their own. Errors of quantization are alike in all
# channels or leave few copies: files without equalization have no such tensors.
_COPY, _SHARE, _SPREAD = 0.9, 0.5, 0.25
_BOUNDED = ("LOGISTIC", "SOFTMAX", "TANH")  # cannot be rescaled


@dataclass(frozen=True)
class Tensor:
    """One tensor of the float model and its copy in the other file."""

    name: str
    sqnr_db: float  # signal power to noise power, the images' median; at most 120
    rescaled: bool  # the other file's channels were brought to the float ones' scale first


@dataclass(frozen=True)
class Block:
    """A run of tensors that belong together, e.g. "block2a"; its last one is its output."""

    name: str
    tensors: "tuple[Tensor, ...]"

    @property
    def sqnr_db(self):
        """Of the block's output."""
        return self.tensors[-1].sqnr_db

    @property
    def worst(self):
        """Its noisiest tensor."""
        return min(self.tensors, key=lambda tensor: tensor.sqnr_db)


def sqnr_by_block(first, second, images):
    """The :class:`Block` rows of two classifiers of the same size, in the order of the graph: how
    far above the second file's error the first one's values are. 20 dB: the error is a tenth.

    Tensors are the same if they have the same name (quantizers keep it) or, in files of other
    makers, the same place in the same sequence of ops. Where a converter has plainly rescaled a
    tensor's channels (equalization, which the next op undoes), each is first brought back by
    least squares, and the row says so. Without two files of the same graph the result is ().

    Args:
        first: a :class:`~tflite.evaluation.classifier.Classifier`, float or the one to compare with.
        second: the other.
        images: uint8 (n, height, width, 3) of their size; a few dozen do.
    """
    pairs = _pairs(first.content, second.content)
    if not pairs or (first.height, first.width) != (second.height, second.width):
        return ()
    shapes = [runner.tensor_shapes(model.content) for model in (first, second)]
    pairs = [p for p in pairs if shapes[0][p[1]] == shapes[1][p[2]] and len(shapes[0][p[1]]) > 1]

    def values(rows):
        """(row, first's values, second's) of every image and row of pairs."""
        indices = [[pairs[row][which] for row in rows] for which in (1, 2)]
        runs = (classifier.run(*each) for each in zip((first, second), [images] * 2, indices))
        for a, b in zip(*runs):
            for row in rows:
                yield row, _real(a, pairs[row][1]), _real(b, pairs[row][2])

    everything = range(len(pairs))
    decibels = [[] for _ in pairs]
    moments = [0.0] * len(pairs)
    for row, x, y in values(everything):
        decibels[row].append(_decibels(x, y))
        power = (x * x).sum() or 1.0  # every image counts alike
        moments[row] += np.stack([(x * x).sum(0), (x * y).sum(0), (y * y).sum(0)]) / power
    free = [row for row in everything[:-1] if pairs[row][3] not in _BOUNDED]  # not the scores
    factors = {row: _factors(*moments[row]) for row in free}
    factors = {row: f for row, f in factors.items() if f is not None}
    for row in factors:
        decibels[row] = []
    for row, x, y in values(sorted(factors)) if factors else ():
        decibels[row].append(_decibels(x, y * factors[row]))
    return _grouped(
        [
            Tensor(name, float(np.median(decibels[row])), row in factors)
            for row, (name, *_) in enumerate(pairs)
        ]
    )


def _pairs(first, second):
    """(name, index in the first file, index in the second, op) of the tensors that ops of both
    write, in the first's order.
    """
    a, b = (
        [op for op in ops.read_ops(content) if op.name not in _HANDED_OVER]
        for content in (first, second)
    )
    there = {op.output: op.index for op in b}
    named = [(op.output, op.index, there[op.output], op.name) for op in a if op.output in there]
    if len(named) * 2 >= len(a):
        return named
    if [op.name for op in a] != [op.name for op in b]:
        return []
    return [(x.output, x.index, y.index, x.name) for x, y in zip(a, b)]


def _real(tensors, index):
    """(values, channels) float64."""
    scale, zero = tensors.quantization(index)
    value = tensors[index].astype(np.float64)
    if scale:
        value = (value - zero) * scale
    return value.reshape(-1, value.shape[-1])


def _decibels(x, y):
    """Power of x over power of x - y."""
    signal, noise = float((x * x).sum()), float(((x - y) ** 2).sum())
    if signal <= 0:
        return _CEILING if noise <= 0 else 0.0
    return min(_CEILING, 10 * math.log10(signal / max(noise, 1e-30 * signal)))


def _factors(xx, xy, yy):
    """What brings each channel of y back to the scale of x, from the sums of x*x, x*y and y*y; None
    for a tensor that was not rescaled.
    """
    explained = np.divide(xy * xy, yy, out=np.zeros_like(yy), where=yy > 0)
    copies = (explained > _COPY * xx) & (xy > 0)
    gains = np.log(xy[copies] / xx[copies])
    if len(gains) < max(4, _SHARE * len(xx)) or float(np.std(gains)) <= _SPREAD:
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
        for i, name in enumerate(names):  # a nameless tensor belongs to what comes before it
            known = names[i] = name or known
        if tensors[-1].name.startswith("StatefulPartitionedCall"):
            names[-1] = "head"
    rows = itertools.groupby(zip(names, tensors), key=lambda pair: pair[0])
    return tuple(Block(name, tuple(tensor for _, tensor in pairs)) for name, pairs in rows)


def group_of(name):
    """What a tensor belongs to by its name: "block2a", "stem", "top", "head" or "input"; "" for a
    name that says nothing.
    """
    found = _BLOCK.search(name)
    if found:
        return f"block{found[1]}{found[2]}"
    return next((group for pattern, group in _ENDS if pattern.search(name)), "")
