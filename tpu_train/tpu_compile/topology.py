"""TPU topologies to compile for, and the peak rates of each TPU generation."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from tpu_train.tpu_compile import compiler


@dataclass(frozen=True)
class Chip:
    """A TPU generation: the peak rates of one chip."""

    flops: float  # bfloat16 FLOP/s
    bytes_per_second: float  # HBM bandwidth
    layouts: str  # topologies to suggest in error messages
    source: str


# Read on 2026-11-21. TensorFlow is not supported on TPU7x (docs.cloud.google.com/tpu/docs/tpu7x).
CHIPS = {
    "v3": Chip(123e12, 900e9, "2x2, 4x4, 8x8", "cloud.google.com/tpu/docs/v3"),
    "v4": Chip(275e12, 1200e9, "2x2x1, 2x2x2, 2x2x4", "cloud.google.com/tpu/docs/v4"),
    "v5e": Chip(197e12, 819e9, "1x1, 2x2, 2x4, 4x4, 4x8", "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(459e12, 2765e9, "2x2x1, 2x2x2, 2x2x4", "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(918e12, 1638e9, "1x1, 2x2, 2x4, 4x4, 4x8", "cloud.google.com/tpu/docs/v6e"),
}


@dataclass(frozen=True)
class Topology:
    """TPU cores to compile for, and what each core has."""

    name: str
    devices: Any  # jax's descriptions; a device is one core, or two cores that act as one
    cores: int
    hbm_bytes: int  # usable by a program, per core; less than the chip has by what is reserved
    flops: float  # bfloat16 FLOP/s, per core
    bytes_per_second: float  # HBM bandwidth, per core
    compiler: str  # version of libtpu


def check_topology(name: str) -> None:
    """Raises ``ValueError`` for an unknown name, and where libtpu is missing or cannot run."""
    kind, _, layout = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", layout):
        known = "; ".join(f"{kind}:{chip.layouts}" for kind, chip in CHIPS.items())
        raise ValueError(f"Unknown topology {name!r}. Known: {known}, and larger ones")
    compiler.check_machine()


def open_topology(name: str) -> Topology:
    """The :class:`Topology` of a name like "v5e:2x4"; takes a second, needs no TPU and no network.

    Raises ``ValueError`` for unknown names, and where libtpu is not installed or does not run.
    """
    check_topology(name)
    kind, _, layout = name.partition(":")
    chips = math.prod(int(side) for side in layout.split("x"))
    try:
        devices = compiler.describe_devices(name, chips)
    except ValueError as error:
        raise ValueError(
            f"Topology {name!r} does not exist: {error}; try {kind}:{CHIPS[kind].layouts}"
        ) from error
    share = chips / len(devices)  # v3 and v4 chips have two cores, each of which is a device
    return Topology(
        name=name,
        devices=devices,
        cores=len(devices),
        hbm_bytes=compiler.usable_hbm_bytes(devices),
        flops=CHIPS[kind].flops * share,
        bytes_per_second=CHIPS[kind].bytes_per_second * share,
        compiler=compiler.version(),
    )
