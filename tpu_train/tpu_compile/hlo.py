"""HBM traffic of a compiled TPU program, read from the text of its optimized HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2},
    **{"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8},
}
_ARRAY = re.compile(
    rf"\b({'|'.join(_BYTES)})\[([\d,]*)\](?:\{{([\d,]*)(?::T\(([\d,]+)\))?([^}}]*)\}})?"
)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)")
_MOVE_NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def moved_bytes(hlo: str) -> int:
    """Bytes that a compiled program (HLO text) reads from HBM and writes to it.

    Sums the operands and results of every instruction in the entry computation, including tile
    padding. Arrays that the compiler keeps on the chip (memory spaces S(1) and above) are not
    counted. An operand is counted in full even where a fusion reads only part of it.
    """
    total, results = 0, {}
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        name, shape, operation, operands = match.groups()
        results[name] = list(_arrays(shape))
        if operation.endswith("-start"):  # a copy, or a slice of the first array
            pair = results[name][:2]
            total += min(size for size, _ in pair) * sum(in_hbm for _, in_hbm in pair)
        elif not (
            operation in _MOVE_NOTHING or operation.endswith("-done") or "ConcatBitcast" in line
        ):
            read = (
                array
                for operand in re.findall(r"%[\w.\-]+", operands)
                for array in results.get(operand, ())
            )
            total += sum(size for size, in_hbm in (*results[name], *read) if in_hbm)
    return total


def _arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """(bytes with padding, whether in HBM) of each array in the text of an HLO shape."""
    for kind, sizes, order, tile, attributes in _ARRAY.findall(shape):
        sizes = [int(n) for n in sizes.split(",") if n]
        tile = [int(n) for n in tile.split(",") if n]
        # The layout orders dimensions from minor (contiguous) to major, a tile from major to minor.
        for dimension, unit in zip((int(n) for n in order.split(",") if n), reversed(tile)):
            sizes[dimension] = -(-sizes[dimension] // unit) * unit
        yield _BYTES[kind] * math.prod(sizes), "S(" not in attributes
