"""Which hardware runs which op of a .tflite: a table of rules with their sources.

Ops that an accelerator does not run fall back to the CPU, and every switch between delegate and CPU
costs a copy. XNNPACK is measured on this machine. The rules of the other delegates quote their
documentation. An op without a rule is reported as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_effnet.litert import runtime
from keras_effnet.litert.ops import Op, read_ops

MEASURED, DOCUMENTED = "measured", "documented"  # evidence of a rule

_INT8, _FLOAT, _INT16 = ("int8", "uint8"), ("float32", "float16"), ("int16",)
_TO_INT8 = ("uint8->int8", "int8->uint8", "int8->int8")
_CHANGES = ("uint8->float32", "int8->float32", "float32->int8", "float32->uint8")
_COMPUTED = (*_INT8, *_FLOAT, *_INT16, "hybrid")
_ANY = None

_LITERT = "LiteRT 2.3 on x86: CompiledModel.is_fully_accelerated()"
_XNNPACK = "tensorflow/lite/delegates/xnnpack/README.md"
_CORAL = "coral.withgoogle.com/docs/edgetpu/models-intro, supported operations"
_GPU = "tensorflow.org/lite/performance/gpu, supported operations and quantized models"
_QNN = "docs.qualcomm.com: QNN delegate, acceleration support (HTP)"
_QNN_NOTES = "docs.qualcomm.com: QNN delegate, release notes: float16, which some chips lack"
_AI_HUB = "huggingface.co/qualcomm/EfficientNet-B0, which is 16-bit"

# fmt: off
_XNNPACK_INT8 = frozenset((
    "ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LOGISTIC", "MEAN", "MUL", "PAD",
    "RESHAPE", "SUB",
))
_XNNPACK_FLOAT = frozenset((
    "ABS", "ADD", "AVERAGE_POOL_2D", "CEIL", "CONV_2D", "DEPTHWISE_CONV_2D", "DIV", "ELU", "FLOOR",
    "FULLY_CONNECTED", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN",
    "MINIMUM", "MUL", "NEG", "PAD", "PRELU", "RELU", "RELU6", "RESHAPE", "SOFTMAX", "SQRT",
    "SQUARE", "SUB",
))
_EDGETPU = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS",
    "FULLY_CONNECTED", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM",
    "MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6",
    "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE",
    "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH",
    "TRANSPOSE_CONV",
))
_GPU_OPS = frozenset((
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXP",
    "FULLY_CONNECTED", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MINIMUM", "MUL", "PAD", "PRELU",
    "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "SOFTMAX", "STRIDED_SLICE", "SUB",
    "TRANSPOSE_CONV",
))
# fmt: on


@dataclass(frozen=True)
class DelegateRule:
    """Whether a delegate runs some ops with some data types. The first matching rule applies."""

    delegate: str
    types: tuple[str, ...] | None  # as in ``Op.types``; None: any
    ops: frozenset[str] | None  # None: any
    runs: bool
    evidence: str  # MEASURED | DOCUMENTED
    source: str
    advice: str = ""  # for ops that do not run

    def matches(self, delegate: str, op: Op) -> bool:
        """Whether the rule is about an op on a delegate."""
        return (
            self.delegate == delegate
            and (self.types is None or op.types in self.types)
            and (self.ops is None or op.name in self.ops)
        )


# fmt: off
RULES = (
    #            delegate   types      ops                          runs   evidence    source
    DelegateRule("XNNPACK", _INT8,     frozenset(("SOFTMAX",)),     False, MEASURED,   _LITERT,
                 "Leave the softmax in float32 (preset int8)."),
    DelegateRule("XNNPACK", _INT8,     frozenset(("HARD_SWISH",)),  False, MEASURED,   _LITERT,
                 "Use swish instead of hard-swish: its int8 kernel takes several times longer."),
    DelegateRule("XNNPACK", _INT16,    _ANY,                        False, MEASURED,   _LITERT,
                 "Use int8 on a CPU: 16-bit activations take about 60 times longer."),
    DelegateRule("XNNPACK", _TO_INT8,  frozenset(("QUANTIZE",)),    False, MEASURED,   _LITERT,
                 "Use a DEQUANTIZE op for the uint8 pixels (preset int8)."),
    DelegateRule("XNNPACK", ("hybrid",), _ANY,                      False, MEASURED,   _LITERT,
                 "Use int8, or weight_only for size: dynamic range is slower than float32."),
    DelegateRule("XNNPACK", _INT8,     _XNNPACK_INT8,               True,  MEASURED,   _LITERT),
    DelegateRule("XNNPACK", (*_CHANGES, "float16->float32"), _ANY,  True,  MEASURED,   _LITERT),
    DelegateRule("XNNPACK", _FLOAT,    _XNNPACK_FLOAT,              True,  DOCUMENTED, _XNNPACK),

    DelegateRule("EdgeTPU", _INT8 + _TO_INT8, _EDGETPU,             True,  DOCUMENTED, _CORAL),
    DelegateRule("EdgeTPU", _FLOAT + _CHANGES + _INT16 + ("hybrid", "float16->float32"), _ANY,
                 False, DOCUMENTED, _CORAL,
                 "Convert with preset int8_strict: the compiler needs int8 from pixels to scores."),
    DelegateRule("EdgeTPU", _ANY,      _ANY,                        False, DOCUMENTED, _CORAL,
                 "Use an activation from the compiler's list."),

    DelegateRule("GPU",     _FLOAT,    _GPU_OPS,                    True,  DOCUMENTED, _GPU),
    DelegateRule("GPU",     _INT8,     _GPU_OPS,                    True,  DOCUMENTED, _GPU),

    DelegateRule("QNN",     _INT8 + _TO_INT8, _ANY,                 True,  DOCUMENTED, _QNN),
    DelegateRule("QNN",     _INT16,    _ANY,                        True,  DOCUMENTED, _AI_HUB),
    DelegateRule("QNN",     _FLOAT + _CHANGES, _ANY,                True,  DOCUMENTED, _QNN_NOTES),
)

DELEGATES = {  # name: (hardware, advice if all ops run)
    "XNNPACK": ("CPUs", "Nothing to do: no op falls back to slow kernels."),
    "EdgeTPU": ("Coral accelerators", "Compile it with edgetpu_compiler."),
    "GPU": ("mobile GPUs",
            "It computes in float, also int8 models: preset float16 is less work for it."),
    "QNN": ("Qualcomm Hexagon NPU", "Compile it through LiteRT's NPU backend for the chip."),
}
# fmt: on


@dataclass(frozen=True)
class Support:
    """Which ops of one file a delegate runs."""

    delegate: str
    hardware: str
    ops: int  # number of ops in the file
    unsupported: dict[str, int]  # {"SOFTMAX int8": number of ops} that do not run there
    unknown: dict[str, int]  # ops without a rule
    sources: tuple[tuple[str, str], ...]  # (evidence, source) of the rules that decide
    advice: str

    @property
    def verdict(self) -> str:
        """One of "all", "not all" and "unknown"."""
        if self.unsupported:
            return "not all"
        return "unknown" if self.unknown else "all"


def support(tflite_model: bytes, *, fully_accelerated: bool | None = None) -> tuple[Support, ...]:
    """The :class:`Support` of a .tflite by each of ``DELEGATES``.

    Args:
        tflite_model: bytes.
        fully_accelerated: the result of ``runtime.is_fully_accelerated``, if it is known already.
    """
    if fully_accelerated is None:
        fully_accelerated = runtime.is_fully_accelerated(tflite_model)
    rows = read_ops(tflite_model)
    return tuple(
        by_rules(name, rows, fully_accelerated if name == "XNNPACK" else None) for name in DELEGATES
    )


def by_rules(delegate: str, rows: Sequence[Op], measured: bool | None = None) -> Support:
    """The :class:`Support` of ops by a delegate. Pure.

    Args:
        delegate: a name in ``DELEGATES``.
        rows: the ops of a file.
        measured: whether all ops ran on this machine; overrules the rules. None: not measured.
    """
    hardware, advice = DELEGATES[delegate]
    if measured:
        return Support(delegate, hardware, len(rows), {}, {}, ((MEASURED, _LITERT),), advice)
    unsupported, unknown, used = {}, {}, {}
    first = None  # unsupported op
    for position, op in enumerate(rows):
        if op.types not in _COMPUTED and "->" not in op.types:
            continue  # shape arithmetic
        rule = next((rule for rule in RULES if rule.matches(delegate, op)), None)
        if rule is None:
            unknown[str(op)] = unknown.get(str(op), 0) + 1
            continue
        used[rule] = None
        if not rule.runs:
            unsupported[str(op)] = unsupported.get(str(op), 0) + 1
            first = position if first is None else first
    failing = [rule for rule in used if not rule.runs]
    if failing:
        advice = " ".join(dict.fromkeys(rule.advice for rule in failing))
        if delegate == "EdgeTPU":
            advice += (
                " The compiler stops at the first unsupported op: it maps "
                f"{f'the {first} ops before it' if first else 'nothing of this file'}."
            )
    elif measured is False:
        unknown = unknown or {"an op without a rule": 1}
        advice = "XNNPACK does not run some op, and no rule names it."
    elif unknown:
        advice = "No rule covers these ops: test them on the device."
    sources = {(rule.evidence, rule.source) for rule in failing or used}
    return Support(
        delegate=delegate,
        hardware=hardware,
        ops=len(rows),
        unsupported=unsupported,
        unknown=unknown,
        sources=tuple(sorted(sources, key=lambda each: (each[0] != MEASURED, each[1]))),
        advice=advice,
    )
