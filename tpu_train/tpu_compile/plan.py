"""The train step of every phase, compiled by the real TPU compiler on a machine without a TPU.

The step is the trainer's own (`tpu_train.training.step`): TensorFlow lowers one core's share of it to
StableHLO, with the all-reduces of all cores in it, and libtpu compiles that for the devices of a
topology that need not be there. What comes out is what a TPU would run; only time is not known, so
that a roofline stands for it. docs/tpu-plan.md says why it is done this way, and what is counted.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tpu_train.input_pipeline.batches import batch_spec
from tpu_train.recipes.phases import batch_size_error, checked_phases
from tpu_train.training import distributed_layers, model_factory
from tpu_train.training.lr_schedule import learning_rate
from tpu_train.training.step import State, make_step

INSTALL = 'pip install "keras_effnet[plan]"'
# Of a core, that the search for the largest looks at: tiles are padded to 8 or more, so that others
# waste memory.
BATCHES = (2, 4, *range(8, 4097, 8))
_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A TPU generation: what one chip reaches at best."""

    flops: float  # bfloat16 operations a second
    bytes_per_second: float  # from and to HBM
    layouts: str  # topologies to offer in messages
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
    """TPU cores that the compiler compiles for, and what each of them has."""

    name: str
    devices: Any  # jax's, of which each is a core (or two that act as one)
    cores: int
    hbm_bytes: int  # that a program may use, of one core; less than the chip's by what is reserved
    flops: float  # a second, of one core
    bytes_per_second: float  # from and to HBM, of one core
    compiler: str  # version of libtpu


@dataclass(frozen=True)
class Compiled:
    """What the compiler said of a step of `batch` images a core; all bytes are one core's."""

    batch: int
    fits: bool
    hbm_bytes: int  # arguments + outputs - aliased + temporaries + program; 0 if not known
    argument_bytes: int
    temporary_bytes: int
    flops: float
    moved_bytes: int  # from and to HBM
    accessed_bytes: float  # the compiler's count, which has what stays on the chip, too
    reduced_bytes: int  # summed over the cores
    error: str  # the compiler's, if it does not fit


@dataclass(frozen=True)
class PhasePlan:
    """A phase on a topology: the step as the recipe has it, and the batches around the limit."""

    number: int
    image_size: int
    step: Compiled
    largest: int  # a core's batch that the compiler took; 0 if the search was left out
    refused: int  # the least batch that it refused; 0 if it refused none


def open_topology(name):
    """The :class:`Topology` of a name like "v5e:2x4"; takes a second, no TPU and no network.

    Raises ``ValueError`` where libtpu is not installed or does not run, and for unknown names.
    """
    kind, _, layout = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", layout):
        known = "; ".join(f"{kind}:{chip.layouts}" for kind, chip in CHIPS.items())
        raise ValueError(f"topology {name!r} is none that is known; there are {known}, and larger")
    _check_machine()
    # Before libtpu is loaded: do not ask a metadata server where this is, share the machine with
    # other processes that compile, say and log nothing.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    import jax
    from jax.experimental import topologies

    chips = math.prod(int(side) for side in layout.split("x"))
    # A host has four chips or eight, but for the smallest: one chip alone.
    alone = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
    try:
        devices = topologies.get_topology_desc(name, "tpu", **alone).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"topology {name!r} cannot be: {_first_line(error)}; e.g. {kind}:{CHIPS[kind].layouts}"
        ) from error
    share = chips / len(devices)  # v3 and v4 chips have two cores, and each is a device
    topology = Topology(
        name=name,
        devices=devices,
        cores=len(devices),
        hbm_bytes=0,
        flops=CHIPS[kind].flops * share,
        bytes_per_second=CHIPS[kind].bytes_per_second * share,
        compiler=importlib.metadata.version("libtpu"),
    )
    return dataclasses.replace(topology, hbm_bytes=_hbm_bytes(topology))


def _check_machine():
    machine = f"{platform.system()} {platform.machine()}"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ValueError(
            f"The TPU compiler (libtpu) is made for Linux x86-64 alone, and this is {machine}: run "
            "the plan on such a machine, in a container, or on Colab"
        )
    for package in ("jax", "libtpu"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(
                f"{package} is not installed, and compiles the plan: {INSTALL}"
            ) from error


def _hbm_bytes(topology):
    """What a program may use of a core's HBM: what the compiler says when it refuses a huge one."""
    huge = "tensor<1073741824x1024xf32>"
    text = f"func.func @main(%arg0: {huge}) -> {huge} {{\n  return %arg0 : {huge}\n}}"
    refused = _compile(text, topology)
    if not isinstance(refused, str):
        raise RuntimeError("the TPU compiler took a program of 4 TiB: its limits are not known")
    return memory_limit(refused)


def memory_limit(message):
    """Bytes of HBM that a refusal of the compiler says there are.

    >>> memory_limit("temporaries (8.00T) exceeds available HBM (15.75G).") / 2**30
    15.75
    """
    return _amount(r"available HBM \(([\d.]+)([KMGT]?)\)|of ([\d.]+)([KMGT]?) hbm", message)


def memory_wanted(message):
    """Bytes of HBM that a refusal of the compiler says a step would use; 0 if it does not say."""
    return _amount(r"temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)


def _amount(pattern, message):
    found = re.search(pattern, message)
    if not found:
        return 0
    number, unit = (g for g in found.groups() if g is not None)
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


@dataclass(frozen=True)
class Trainee:
    """A network as it trains on many cores, seen by one of them."""

    recipe: Any
    classes: int
    examples: int
    phases: tuple
    strategy: tf.distribute.Strategy
    net: Any
    state: State


def trainee(recipe, cores, *, classes, examples):
    """The network of a recipe and all variables of its training, for :func:`lower`.

    Values do not matter to a compiler, so that no weights are loaded. Raises ``ValueError`` as
    :func:`tpu_train.recipes.phases.checked_phases`.
    """
    all_phases = checked_phases(recipe, cores, examples)
    strategy = _OneOfMany(cores)
    network = model_factory.training_network(dataclasses.replace(recipe, weights=""), classes)
    with strategy.scope():
        net, averaged = (
            distributed_layers.training_clone(
                network, batch_norm_group_size=recipe.batch_norm_group_size, freeze=recipe.freeze
            )
            for _ in range(2)
        )
        state = State.of(net, averaged, recipe)
    return Trainee(recipe, classes, examples, all_phases, strategy, net, state)


class _OneOfMany(tf.distribute.OneDeviceStrategy):
    """One core's view of a strategy of `replicas`, as TPUStrategy gives it to a step it traces."""

    def __init__(self, replicas):
        super().__init__("/cpu:0")
        self._replicas = replicas

    @property
    def num_replicas_in_sync(self):
        return self._replicas


class _Replica(tf.distribute.ReplicaContext):
    """Within it, a step is that of replica number `replica`, a tensor, and sums go over all."""

    def __init__(self, strategy, replica):
        super().__init__(strategy, replica)
        self.reduced_bytes = 0

    def all_reduce(self, reduce_op, value, options=None):
        if str(getattr(reduce_op, "value", reduce_op)).upper() != "SUM":
            raise ValueError(f"all_reduce {reduce_op!r}: a step on a TPU sums over its replicas")
        return tf.nest.pack_sequence_as(value, self._sums(*tf.nest.flatten(value)))

    def _sums(self, *values):
        @tf.custom_gradient
        def sums(*values):
            return [self._sum(v) for v in values], lambda *gradients: self._sums(*gradients)

        return sums(*values)

    def _sum(self, value):
        self.reduced_bytes += value.shape.num_elements() * value.dtype.size
        # The one collective that TensorFlow's CPU build lowers; CrossReplicaSum, TPUStrategy's, is
        # in the TPU build alone. Both become StableHLO's all_reduce.
        return tf.raw_ops.CollectiveReduceV2(
            input=value,
            group_size=self.num_replicas_in_sync,
            group_key=1,
            instance_key=1,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
        )


def lower(trained, phase, batch):
    """(StableHLO of one core's step on `batch` images, bytes that it sums over the cores).

    Raises ``ValueError`` for what a TPU cannot run: the operation, and what is wrong with it.
    """
    recipe, strategy = trained.recipe, trained.strategy
    phase = dataclasses.replace(phase, batch_size=batch * strategy.num_replicas_in_sync)
    full = max(recipe.drop_path_first, recipe.drop_path_last)
    distributed_layers.set_dropout(
        trained.net, phase.dropout_rate, phase.drop_path_rate / full if full else 0.0
    )

    def rate(step):
        return learning_rate(
            recipe,
            phase,
            step,
            examples=trained.examples,
            total_examples=trained.phases[-1].first_example + batch,  # any number
        )

    step = make_step(recipe, phase, trained.classes, strategy, trained.net, trained.state, rate)
    return _lowered(step, strategy, batch_spec(phase, batch))


def _lowered(replica_step, strategy, spec):
    reduced = []

    # A core learns its number as TPUStrategy tells it: by an argument.
    @tf.function(jit_compile=True, autograph=False)
    def step_of_a_core(step, replica, *batch):
        context = _Replica(strategy, replica)
        with context:
            figures = replica_step(dict(zip(spec, batch)), step)
        reduced.append(context.reduced_bytes)
        return figures

    numbers = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int32)
    try:
        compiler_ir = step_of_a_core.experimental_get_compiler_ir(*numbers, *spec.values())
        text = compiler_ir(stage="stablehlo")
    except ValueError as error:
        raise ValueError(_why_not_lowered(error)) from error
    check_static(text)
    return _for_tpu(text), reduced[-1]


def _why_not_lowered(error):
    """Which operation of a step XLA has not, from TensorFlow's message; host callbacks are such."""
    found = re.search(r"Detected unsupported operations[^:]*: (\w+)", str(error))
    if found is None:
        return f"The step cannot be compiled: {_first_line(error)}"
    where = re.search(r'File "([^"]+)", line (\d+)', str(error))
    return (
        f"The step cannot run on a TPU: there is no operation {found[1]!r} there"
        f"{f' ({os.path.basename(where[1])}, line {where[2]})' if where else ''}. What needs "
        "the host (tf.py_function, printing, strings) belongs into the input, or goes"
    )


def check_static(text):
    """Raises ``ValueError`` for StableHLO with a shape that is known at run time alone: of what."""
    for line in text.splitlines():
        if re.search(r"tensor<[^>]*\?", line) and "func.func" not in line:
            operation = re.search(r'(?:stablehlo|mhlo|chlo)\.(\w+)|"(\w+\.\w+)"', line)
            name = _location(text, line)
            raise ValueError(
                f"The step has a dynamic shape, which a TPU cannot run: {name or operation[0]} "
                f"({operation[0] if operation else 'its result'}). tf.where with one argument, "
                "tf.boolean_mask, tf.unique and the like have results of unknown size: use masks"
            )


def _location(text, line):
    """The TensorFlow operation that a line of StableHLO comes from, if it says so."""
    found = re.search(r"loc\(#(loc\d+)\)\s*$", line)
    while found:
        definition = re.search(rf"^#{found[1]} = loc\((.*)\)$", text, re.MULTILINE)
        if definition is None:
            return ""
        name = re.match(r'"([^"]+)"', definition[1])
        if name:
            return name[1]
        found = re.search(r"#(loc\d+)", definition[1])
    return ""


def _for_tpu(text):
    """StableHLO as libtpu takes it, without the names of the Python lines that it comes from."""
    text = re.sub(r"^#loc.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" loc\((?:#loc\d*|unknown|\"[^\"]*\"|fused\[[^\]]*\])\)", "", text)
    # mhlo is not StableHLO; its copies guard buffers, which the TPU compiler does by itself.
    text = re.sub(
        r"= mhlo\.copy (%\S+) : (tensor<[^>]*>)", r"= stablehlo.reshape \1 : (\2) -> \2", text
    )
    # A channel would order an all-reduce among other programs'; TPUStrategy's have none, so that
    # the compiler can put many of them into one.
    text = re.sub(r"channel_handle = #stablehlo\.channel_handle<[^>]*>, ", "", text)
    return re.sub(r"^module @\S+", "module @step", text, flags=re.MULTILINE)


def compile_step(text, reduced_bytes, topology, batch, cache=None):
    """The :class:`Compiled` of a step's StableHLO; minutes for large networks.

    With a folder `cache`, what was compiled once is read from there.
    """
    kept = cache and os.path.join(cache, f"{_key(text, topology)}.json")
    if kept and os.path.exists(kept):
        with open(kept) as file:
            return Compiled(**json.load(file))
    done = _compile(text, topology)
    if isinstance(done, str):
        wanted = memory_wanted(done)
        compiled = Compiled(batch, False, wanted, 0, 0, 0.0, 0, 0.0, reduced_bytes, done)
    else:
        memory, cost = done.get_compiled_memory_stats(), done.cost_analysis()
        compiled = Compiled(
            batch=batch,
            fits=True,
            hbm_bytes=memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes,
            argument_bytes=memory.argument_size_in_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
            flops=cost.get("flops", 0.0),
            moved_bytes=moved_bytes(done.hlo_modules()[0].to_string()),
            accessed_bytes=cost.get("bytes accessed", 0.0),
            reduced_bytes=reduced_bytes,
            error="",
        )
    if kept:
        os.makedirs(cache, exist_ok=True)
        with open(f"{kept}.partial", "w") as file:
            json.dump(dataclasses.asdict(compiled), file, indent=1)
        os.replace(f"{kept}.partial", kept)
    return compiled


def _key(text, topology):
    kept = [field.name for field in dataclasses.fields(Compiled)]
    what = f"{kept} {topology.name} {topology.compiler} {text}"
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _compile(text, topology):
    """An executable of jax for all cores of a topology; or the compiler's message, if the step
    needs more memory than there is.
    """
    import jax
    import numpy as np
    from jax.extend.backend import get_compile_options
    from jax.interpreters import mlir
    from jaxlib.xla_client import DeviceList

    options = get_compile_options(
        num_replicas=topology.cores,
        num_partitions=1,
        device_assignment=np.arange(topology.cores).reshape(-1, 1),
    )
    with mlir.make_ir_context():
        module = mlir.ir.Module.parse(text)
        try:
            client = topology.devices[0].client
            return client.compile(module, DeviceList(tuple(topology.devices)), options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or "hbm" not in str(error).lower():
                raise ValueError(
                    f"The TPU compiler refuses the step: {_first_line(error)}"
                ) from error
            return str(error)


_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2},
    **{"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8},
}
_ARRAY = re.compile(
    rf"\b({'|'.join(_BYTES)})\[([\d,]*)\](?:\{{([\d,]*)(?::T\(([\d,]+)\))?([^}}]*)\}})?"
)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)")
_MOVE_NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast")


def moved_bytes(hlo):
    """Bytes that a compiled program (text of its HLO) reads from HBM and writes to it.

    Operands and results of every instruction of the entry computation, with their tiles' padding,
    without those that the compiler keeps on the chip (memory spaces S(1) and above). An operand
    counts whole, also where a fusion reads a part of it.
    """
    total, results = 0, {}
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        name, shape, operation, operands = found.groups()
        results[name] = list(_arrays(shape))
        if operation.endswith("-start"):  # a copy, or a slice of the first array: what is moved
            pair = results[name][:2]
            total += min(n for n, _ in pair) * sum(in_hbm for _, in_hbm in pair)
        elif not (
            operation in _MOVE_NOTHING or operation.endswith("-done") or "ConcatBitcast" in line
        ):
            read = (a for o in re.findall(r"%[\w.\-]+", operands) for a in results.get(o, ()))
            total += sum(n for n, in_hbm in (*results[name], *read) if in_hbm)
    return total


def _arrays(shape):
    """(bytes with padding, whether in HBM) of each array in the text of an HLO shape."""
    for kind, sizes, order, tile, more in _ARRAY.findall(shape):
        sizes = [int(n) for n in sizes.split(",") if n]
        tile = [int(n) for n in tile.split(",") if n]
        # The order names the dimensions from the one that is contiguous; a tile ends with its.
        for dimension, unit in zip((int(n) for n in order.split(",") if n), reversed(tile)):
            sizes[dimension] = -(-sizes[dimension] // unit) * unit
        yield _BYTES[kind] * math.prod(sizes), "S(" not in more


def largest_batch(compile_at, hbm_bytes, batches=BATCHES, known=()):
    """(the largest of `batches` that the compiler took or 0, the least that it refused or 0).

    `compile_at` maps a batch of a core to a :class:`Compiled`; `known` are some that were compiled
    before. Memory is nearly linear in the batch: two compilations say where the limit is, the next
    ones confirm it from both sides, until these are an eighth apart.
    """
    tried = {c.batch: c for c in known}
    while True:
        low = max((b for b, c in tried.items() if c.fits), default=0)
        high = min((b for b, c in tried.items() if not c.fits), default=0)
        between = [b for b in batches if low < b and (b < high or not high)]
        if not between or (high and high - low <= high // 8):
            return low, high
        # No closer to what was tried than it takes to end the search there.
        above = [b for b in between if b - low <= b // 8] or between[:1]
        below = [b for b in between if high and high - b <= high // 8] or between[-1:]
        if len(tried) < 2 and low:
            guess = 2 * low
        elif len(tried) < 5:
            guess = predicted_batch(list(tried.values()), hbm_bytes)
        else:  # the compiler does not keep to the line
            guess = (low + (high or 3 * low)) // 2
        batch = min(max(min(between, key=lambda b: abs(b - guess)), above[-1]), below[0])
        tried[batch] = compile_at(batch)


def predicted_batch(compiled, hbm_bytes):
    """The batch that takes all of the memory, on the line through the two compilations nearest to
    that, of which each fitted or said what it wants; through nothing at 0 images if there is one.
    """
    points = sorted((c.batch, c.hbm_bytes) for c in compiled if c.hbm_bytes)
    if not points:
        return min((c.batch for c in compiled), default=128) // 2
    nearest = sorted([(0, 0), *points], key=lambda p: abs(p[1] - hbm_bytes))[:2]
    (b0, m0), (b1, m1) = sorted(nearest)
    if m1 <= m0:
        return 2 * b1
    return int(b0 + (hbm_bytes - m0) * (b1 - b0) / (m1 - m0))


def roofline_seconds(compiled, topology):
    """The longer of computing at the peak and of moving the bytes at the full bandwidth: what a
    step would take if nothing ever waited. No measurement, and no prediction.
    """
    return max(compiled.flops / topology.flops, compiled.moved_bytes / topology.bytes_per_second)


def plan(recipe, topology, *, classes, examples, numbers=(), search=True, cache=None, say=None):
    """Yields a :class:`PhasePlan` for every phase of a recipe, or for those of the given numbers.

    `search` looks for the largest batch that fits, with a few more compilations a phase. `say` is
    called with a line before whatever takes long.
    """
    say = say or (lambda line: None)
    there_are = checked_phases(recipe, topology.cores, examples)
    for number in numbers:
        if not 1 <= number <= len(there_are):
            raise ValueError(f"phase {number}: {recipe.name} has phases 1 to {len(there_are)}")
    say(f"building {recipe.model}")
    trained = trainee(recipe, topology.cores, classes=classes, examples=examples)
    for phase in trained.phases:
        if numbers and phase.number not in numbers:
            continue

        def compile_at(batch, phase=phase):
            say(f"phase {phase.number}: compiling {phase.image_size} px, {batch} images a core")
            return compile_step(*lower(trained, phase, batch), topology, batch, cache)

        own = compile_at(phase.batch_size // topology.cores)
        low, high = 0, 0
        if search:
            batches = [
                b
                for b in BATCHES
                if not batch_size_error(
                    recipe,
                    dataclasses.replace(phase, batch_size=b * topology.cores),
                    topology.cores,
                )
            ]
            low, high = largest_batch(compile_at, topology.hbm_bytes, batches, [own])
        yield PhasePlan(phase.number, phase.image_size, own, low, high)


def show(plans, topology):
    """The plans as an aligned table, with what its columns count."""
    head = ("phase", "image size", "batch/core", "HBM GiB", "TFLOP", "GB moved", "roofline ms")
    rows = [
        (*head, "bound by", "MB summed", "largest batch/core"),
        *(_row(p, topology) for p in plans),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)) for row in rows]
    t = topology
    return (
        "\n".join(lines)
        + f"""

{t.name}: {t.cores} cores; of each {t.hbm_bytes / _GIB:.2f} GiB of HBM are for programs, \
{t.flops / 1e12:.4g} TFLOP/s (bfloat16), {t.bytes_per_second / 1e9:.4g} GB/s.
Compiled by libtpu {t.compiler}; nothing ran. Figures are of one core and step. HBM: arguments
(weights, slots, averages, batch), outputs not written in place, temporaries, the program. Roofline:
max(FLOPs / peak, bytes moved from and to HBM / bandwidth); no measurement: a real step is slower.
MB summed: over the cores, gradients and batch norm's statistics."""
    )


def _row(p, topology):
    s = p.step
    largest = "not searched"
    if p.largest or p.refused:
        largest = f"{p.largest} ({p.refused} refused)" if p.refused else f"{p.largest} or more"
    wanted = f"{s.hbm_bytes / _GIB:.2f}" if s.hbm_bytes else "?"
    begin = (str(p.number), str(p.image_size), str(s.batch))
    if not s.fits:
        return (*begin, f"{wanted} > {topology.hbm_bytes / _GIB:.2f}", *"-----", largest)
    seconds = roofline_seconds(s, topology)
    return (
        *begin,
        f"{s.hbm_bytes / _GIB:.2f}",
        f"{s.flops / 1e12:.2f}",
        f"{s.moved_bytes / 1e9:.1f}",
        f"{seconds * 1e3:.1f}",
        "FLOPs" if seconds == s.flops / topology.flops else "bytes",
        f"{s.reduced_bytes / 1e6:.1f}",
        largest,
    )


def _first_line(error):
    return str(error).strip().splitlines()[0]
