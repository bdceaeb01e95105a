"""The TPU compiler (libtpu), called through jax. The only module here that imports jax."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from typing import Any

INSTALL = 'pip install "keras_effnet[plan]"'


def check_machine() -> None:
    """Raises ``ValueError`` unless libtpu runs on this machine and is installed, with jax."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ValueError(
            "The TPU compiler (libtpu) runs only on Linux x86-64, and this machine is "
            f"{platform.system()} {platform.machine()}. Run the plan on Linux x86-64, in a "
            "container, or on Colab"
        )
    for package in ("jax", "libtpu"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(
                f"{package} is not installed, but is needed to compile the plan: {INSTALL}"
            ) from error


def version() -> str:
    """The installed version of libtpu."""
    return importlib.metadata.version("libtpu")


def describe_devices(topology_name: str, chips: int) -> Sequence[Any]:
    """Device descriptions (jax's) of a topology like "v5e:2x4"; needs no TPU and no network.

    Raises ``ValueError`` with the compiler's message if there is no such topology.
    """
    # Must be set before libtpu is loaded: do not query a metadata server, allow several compiling
    # processes on one machine, write no logs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    import jax
    from jax.experimental import topologies

    # A host has four or eight chips, except in the one-chip topology.
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
    try:
        return topologies.get_topology_desc(topology_name, "tpu", **one_chip).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(first_line(error)) from error


def compile_stablehlo(text: str, devices: Sequence[Any]) -> Any:
    """The executable of a StableHLO module for all `devices` (one replica on each).

    Returns the compiler's message (``str``) instead if the program needs more HBM than there is.
    Raises ``ValueError`` for any other refusal.
    """
    import jax
    import numpy as np
    from jax.extend.backend import get_compile_options
    from jax.interpreters import mlir
    from jaxlib.xla_client import DeviceList

    options = get_compile_options(
        num_replicas=len(devices),
        num_partitions=1,
        device_assignment=np.arange(len(devices)).reshape(-1, 1),
    )
    with mlir.make_ir_context():
        module = mlir.ir.Module.parse(text)
        try:
            return devices[0].client.compile(module, DeviceList(tuple(devices)), options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or "hbm" not in str(error).lower():
                raise ValueError(
                    f"The TPU compiler refuses the step: {first_line(error)}"
                ) from error
            return str(error)


def usable_hbm_bytes(devices: Sequence[Any]) -> int:
    """Bytes of one core's HBM that a program may use.

    Read from the compiler's message when it refuses a program that is far too large.
    """
    huge = "tensor<1073741824x1024xf32>"
    text = f"func.func @main(%arg0: {huge}) -> {huge} {{\n  return %arg0 : {huge}\n}}"
    refusal = compile_stablehlo(text, devices)
    if not isinstance(refusal, str):
        raise RuntimeError(
            "The TPU compiler accepted a program of 4 TiB, so its memory limit is unknown"
        )
    return memory_limit(refusal)


def memory_limit(message: str) -> int:
    """Bytes of HBM that exist, according to the compiler's out-of-memory message; 0 if not stated.

    >>> memory_limit("temporaries (8.00T) exceeds available HBM (15.75G).") / 2**30
    15.75
    """
    return _byte_count(r"available HBM \(([\d.]+)([KMGT]?)\)|of ([\d.]+)([KMGT]?) hbm", message)


def memory_wanted(message: str) -> int:
    """Bytes of HBM a program needs, according to the out-of-memory message; 0 if not stated.

    >>> memory_wanted("Used 20.5G of 15.75G hbm.") / 2**30
    20.5
    """
    return _byte_count(r"temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0]


def _byte_count(pattern, message):
    match = re.search(pattern, message)
    if not match:
        return 0
    number, unit = (group for group in match.groups() if group is not None)
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
