"""Memory, FLOPs and HBM traffic of one core's compiled train step, cached on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass

from keras_effnet import atomic_write
from tpu_train.tpu_compile import compiler
from tpu_train.tpu_compile.hlo import moved_bytes
from tpu_train.tpu_compile.lowering import LoweredStep
from tpu_train.tpu_compile.topology import Topology


@dataclass(frozen=True)
class CompiledStep:
    """The compiler's result for a step of `batch` images per core; all bytes are per core."""

    batch: int
    fits: bool
    hbm_bytes: int  # arguments + outputs - aliased + temporaries + program; 0 if unknown
    argument_bytes: int
    temporary_bytes: int
    flops: float
    moved_bytes: int  # read from and written to HBM
    accessed_bytes: float  # the compiler's count, which includes arrays kept on the chip
    reduced_bytes: int  # summed over the cores by all-reduce
    error: str  # the compiler's message, if the step does not fit


def compile_step(step: LoweredStep, topology: Topology, cache: str | None = None) -> CompiledStep:
    """The :class:`CompiledStep` of a lowered step; takes minutes for large networks.

    With a folder `cache`, results are stored there and reused.
    """
    path = cache and os.path.join(cache, f"{_cache_key(step.stablehlo, topology)}.json")
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return CompiledStep(**json.load(file))
    compiled = _read_result(step, compiler.compile_stablehlo(step.stablehlo, topology.devices))
    if path:
        os.makedirs(cache, exist_ok=True)
        content = json.dumps(dataclasses.asdict(compiled), indent=1)
        atomic_write.write_files({path: content.encode()})
    return compiled


def roofline_seconds(compiled: CompiledStep, topology: Topology) -> float:
    """Lower bound of a step's time: the longer of FLOPs / peak and bytes moved / bandwidth.

    It is neither a measurement nor a prediction; a real step is slower.
    """
    return max(compiled.flops / topology.flops, compiled.moved_bytes / topology.bytes_per_second)


def _read_result(step, executable):
    if isinstance(executable, str):  # out of memory
        return CompiledStep(
            batch=step.batch,
            fits=False,
            hbm_bytes=compiler.memory_wanted(executable),
            argument_bytes=0,
            temporary_bytes=0,
            flops=0.0,
            moved_bytes=0,
            accessed_bytes=0.0,
            reduced_bytes=step.reduced_bytes,
            error=executable,
        )
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return CompiledStep(
        batch=step.batch,
        fits=True,
        hbm_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=cost.get("flops", 0.0),
        moved_bytes=moved_bytes(executable.hlo_modules()[0].to_string()),
        accessed_bytes=cost.get("bytes accessed", 0.0),
        reduced_bytes=step.reduced_bytes,
        error="",
    )


def _cache_key(stablehlo, topology):
    fields = [field.name for field in dataclasses.fields(CompiledStep)]
    content = f"{fields} {topology.name} {topology.compiler} {stablehlo}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]
