"""Computes a .tflite section by section: the values that one section of its operations leaves are
the inputs of the next, so that a caller who changes a constant repeats no earlier operation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import runner
from keras_effnet.litert.runtime import flatbuffer_tools
from tflite.flatbuffer import rewrite

_THREADS = 2


@dataclass(frozen=True, eq=False)
class Values:
    """The tensors that the operations from a position on read."""

    position: int  # of the next operation
    images: tuple[Mapping[int, np.ndarray], ...]  # {tensor: value} of each image


def run_until(
    tflite_model: bytes, images: np.ndarray, tensors: Collection[int], *, threads: int = 1
) -> Iterator[runner.Tensors]:
    """As ``runner.run`` with indices of tensors; no operation after the last of them is computed.

    Without tensors, it yields nothing.
    """
    sections = Sections(tflite_model)
    written = [tensor for tensor in tensors if tensor in sections.writers]
    if not written:
        return iter(())
    last = max(sections.writers[tensor] for tensor in written)
    first = sections.first(images)
    section = rewrite.section(tflite_model, 0, last, inputs=list(first.images[0]), outputs=written)
    return runner.run_section(section, first.images, tensors, threads=threads)


class Sections:
    """The operations of a .tflite, and which tensors they leave to one another.

    >>> sections = Sections(tflite_model)  # doctest: +SKIP
    >>> values = sections.first(images)  # doctest: +SKIP
    >>> rows, values = sections.run(
    ...     tflite_model, values, sections.position("stem_conv"), lambda tensors, i: tensors[i]
    ... )  # doctest: +SKIP
    """

    def __init__(self, tflite_model: bytes):
        graph = flatbuffer_tools().Model.GetRootAs(tflite_model, 0).Subgraphs(0)
        operations = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        self._reads = [op.InputsAsNumpy().tolist() for op in operations]
        self._writes = [op.OutputsAsNumpy().tolist() for op in operations]
        self._input = int(graph.Inputs(0))
        self.writers = {  # {tensor: position of the operation that writes it}
            tensor: position for position, written in enumerate(self._writes) for tensor in written
        }
        self._positions = {
            graph.Tensors(tensor).Name().decode(): position
            for tensor, position in self.writers.items()
        }

    def position(self, tensor: str) -> int:
        """The position of the operation that writes a tensor; ``KeyError`` without one."""
        return self._positions[tensor]

    def inputs(self, position: int) -> list[int]:
        """The tensors that an operation reads, constants included."""
        return self._reads[position]

    def first(self, images: np.ndarray) -> Values:
        """The values before the first operation: the images (n, height, width, channels)."""
        return Values(0, tuple({self._input: image[None]} for image in images))

    def run(
        self,
        tflite_model: bytes,
        values: Values,
        position: int,
        read: Callable[[runner.Tensors, int], object],
    ) -> tuple[list, Values]:
        """([result of `read` for each image], the values in front of the operation at `position`).

        Args:
            tflite_model: bytes; constants that the operations from ``values.position`` on read may
                differ from those of the constructor.
            values: in front of `position` or an earlier operation.
            position: of the last operation that is computed.
            read: function (tensors, index of that operation's output) -> result.
        """
        output, needed = self._writes[position][0], self._needed(position)
        kept = [tensor for tensor in values.images[0] if tensor in needed]
        computed = [tensor for tensor in needed if tensor not in kept]
        section = rewrite.section(
            tflite_model,
            values.position,
            position,
            inputs=list(values.images[0]),
            outputs=[*computed, output],
        )
        rows, images = [], []
        ran = runner.run_section(section, values.images, [*computed, output], threads=_THREADS)
        for before, tensors in zip(values.images, ran):
            rows.append(read(tensors, output))
            after = {tensor: tensors[tensor] for tensor in computed}
            images.append({**{tensor: before[tensor] for tensor in kept}, **after})
        return rows, Values(position, tuple(images))

    def _needed(self, position):
        """The tensors that exist in front of an operation, and that it or a later one reads."""
        existing = {self._input}.union(*self._writes[:position])
        return sorted(existing & set().union(*self._reads[position:]))
