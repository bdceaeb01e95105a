"""Search for the largest batch per core that the TPU compiler accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tpu_train.tpu_compile.compiled_step import CompiledStep

# Candidate batches per core. Tiles are padded to at least 8, so other sizes above 8 waste memory.
BATCHES = (2, 4, *range(8, 4097, 8))


def largest_batch(
    compile_batch: Callable[[int], CompiledStep],
    hbm_bytes: int,
    batches: Iterable[int] = BATCHES,
    known: Sequence[CompiledStep] = (),
) -> tuple[int, int]:
    """(the largest of `batches` that fits or 0, the smallest that was refused or 0).

    `compile_batch` maps a batch per core to a :class:`CompiledStep`; `known` are earlier results.
    Memory is nearly linear in the batch: two compilations predict the limit, and the next ones
    narrow it from both sides until these are within an eighth of each other.
    """
    tried = {compiled.batch: compiled for compiled in known}
    while True:
        low = max((batch for batch, c in tried.items() if c.fits), default=0)
        high = min((batch for batch, c in tried.items() if not c.fits), default=0)
        between = [b for b in batches if low < b and (b < high or not high)]
        if not between or (high and high - low <= high // 8):
            return low, high
        # Stay as far from the tried batches as still ends the search with this compilation.
        above = [b for b in between if b - low <= b // 8] or between[:1]
        below = [b for b in between if high and high - b <= high // 8] or between[-1:]
        if len(tried) < 2 and low:
            guess = 2 * low
        elif len(tried) < 5:
            guess = predicted_batch(list(tried.values()), hbm_bytes)
        else:  # memory is not linear in the batch here: bisect
            guess = (low + (high or 3 * low)) // 2
        batch = min(max(min(between, key=lambda b: abs(b - guess)), above[-1]), below[0])
        tried[batch] = compile_batch(batch)


def predicted_batch(compiled: Sequence[CompiledStep], hbm_bytes: int) -> int:
    """The batch that would use all of `hbm_bytes`, by linear extrapolation.

    The line goes through the two results of known size nearest to the limit; (0 images, 0 bytes)
    counts as one. Without a known size: half of the smallest batch.
    """
    points = sorted((c.batch, c.hbm_bytes) for c in compiled if c.hbm_bytes)
    if not points:
        return min((c.batch for c in compiled), default=128) // 2
    nearest = sorted([(0, 0), *points], key=lambda p: abs(p[1] - hbm_bytes))[:2]
    (batch0, bytes0), (batch1, bytes1) = sorted(nearest)
    if bytes1 <= bytes0:
        return 2 * batch1
    return int(batch0 + (hbm_bytes - bytes0) * (batch1 - batch0) / (bytes1 - bytes0))
