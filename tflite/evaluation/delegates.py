"""Which parts of a .tflite run on which hardware: rules as rows, each with where it is from.

What does not run on an accelerator runs on the CPU, and every change of side costs a copy. One
delegate can be asked on this machine (XNNPACK: the answer is measured); of the others the
documentation is quoted, and what is only remembered says so.
"""

from dataclasses import dataclass

from tflite import litert
from tflite.flatbuffer import ops

# How well a rule is known.
MEASURED, DOCUMENTED, RECALLED = "measured", "documented", "recalled"

_INT8, _FLOAT, _INT16 = ("int8", "uint8"), ("float32", "float16"), ("int16",)
_TO_INT8 = ("uint8->int8", "int8->uint8", "int8->int8")
_CHANGES = ("uint8->float32", "int8->float32", "float32->int8", "float32->uint8")
_ANY = None

_LITERT = "LiteRT 2.3 on x86: CompiledModel.is_fully_accelerated()"
_XNNPACK = "tensorflow/lite/delegates/xnnpack/README.md"
_CORAL = "coral.withgoogle.com/docs/edgetpu/models-intro, supported operations"
_GPU = "tensorflow.org/lite/performance/gpu, supported operations and quantized models"
_NNAPI = "developer.android.com: NNAPI migration guide"
_QNN = "docs.qualcomm.com: QNN delegate, acceleration support (HTP)"
_QNN_NOTES = "docs.qualcomm.com: QNN delegate, release notes: float16, which some chips lack"
_AI_HUB = "huggingface.co/qualcomm/EfficientNet-B0, which is 16-bit"
_NOWHERE = "no source at hand; check before relying on it"

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
_GPU_MORE = frozenset(("DEQUANTIZE", "HARD_SWISH", "MEAN", "QUANTIZE", "TANH"))
# fmt: on


@dataclass(frozen=True)
class Rule:
    """What one delegate does with some ops at some number types; the first row that fits holds."""

    delegate: str
    kinds: "tuple[str, ...] | None"  # as in anatomy.TypedOp; None: any
    ops: "frozenset[str] | None"  # None: any
    runs: bool
    evidence: str
    source: str
    advice: str = ""  # where it does not run


# fmt: off
RULES = (
    #    delegate   kinds      ops                          runs   evidence    source    advice
    Rule("XNNPACK", _INT8,     frozenset(("SOFTMAX",)),     False, MEASURED,   _LITERT,
         "Leave the softmax in float32 (preset int8)."),
    Rule("XNNPACK", _INT8,     frozenset(("HARD_SWISH",)),  False, MEASURED,   _LITERT,
         "Use swish instead of hard-swish: its int8 kernel takes several times longer."),
    Rule("XNNPACK", _INT16,    _ANY,                        False, MEASURED,   _LITERT,
         "Use int8 on a CPU: 16-bit activations take about 60 times longer."),
    Rule("XNNPACK", _TO_INT8,  frozenset(("QUANTIZE",)),    False, MEASURED,   _LITERT,
         "Let a DEQUANTIZE take the uint8 pixels (preset int8)."),
    Rule("XNNPACK", ("hybrid",), _ANY,                      False, MEASURED,   _LITERT,
         "Use int8, or weight_only for size: dynamic range is slower than float32."),
    Rule("XNNPACK", _INT8,     _XNNPACK_INT8,               True,  MEASURED,   _LITERT),
    Rule("XNNPACK", (*_CHANGES, "float16->float32"), _ANY,  True,  MEASURED,   _LITERT),
    Rule("XNNPACK", _FLOAT,    _XNNPACK_FLOAT,              True,  DOCUMENTED, _XNNPACK),

    Rule("EdgeTPU", _INT8 + _TO_INT8, _EDGETPU,             True,  DOCUMENTED, _CORAL),
    Rule("EdgeTPU", _FLOAT + _CHANGES + _INT16 + ("hybrid", "float16->float32"), _ANY,
         False, DOCUMENTED, _CORAL,
         "Convert with preset int8_strict: the compiler takes int8 from pixels to scores."),
    Rule("EdgeTPU", _ANY,      _ANY,                        False, DOCUMENTED, _CORAL,
         "Take an activation that the compiler's list has."),

    Rule("GPU",     _FLOAT,    _GPU_OPS,                    True,  DOCUMENTED, _GPU),
    Rule("GPU",     _INT8,     _GPU_OPS,                    True,  DOCUMENTED, _GPU),
    Rule("GPU",     _FLOAT + _INT8 + _CHANGES + _TO_INT8 + ("float16->float32",),
         _GPU_MORE, True, RECALLED, _NOWHERE),
    Rule("GPU",     _INT16,    _ANY,                        False, RECALLED,   _NOWHERE,
         "Convert with preset float16."),

    Rule("NNAPI",   (*_INT16, "hybrid"), _ANY,              False, RECALLED,   _NOWHERE,
         "Do not aim at NNAPI: it is deprecated since Android 15."),
    Rule("NNAPI",   _INT8 + _FLOAT, _ANY,                   True,  RECALLED,   _NOWHERE),
    Rule("NNAPI",   _TO_INT8 + _CHANGES, _ANY,              True,  RECALLED,   _NOWHERE),

    Rule("QNN",     _INT8 + _TO_INT8, _ANY,                 True,  DOCUMENTED, _QNN),
    Rule("QNN",     _INT16,    _ANY,                        True,  DOCUMENTED, _AI_HUB),
    Rule("QNN",     _FLOAT + _CHANGES, _ANY,                True,  DOCUMENTED, _QNN_NOTES),
)

DELEGATES = {  # name: (what it is, advice where all runs)
    "XNNPACK": ("every phone's CPU", "Nothing to do: no op falls back to slow kernels."),
    "EdgeTPU": ("Coral accelerators", "Compile it with edgetpu_compiler."),
    "GPU": ("phones' graphics chips",
            "It computes in float, also what is int8: preset float16 is smaller work for it."),
    "NNAPI": ("older Android's accelerators",
              "Do not aim at it: deprecated since Android 15 (documented: " + _NNAPI + "), and it "
              "tends to refuse graphs of mixed types (recalled)."),
    "QNN": ("Qualcomm's Hexagon NPU", "Compile it through LiteRT's NPU backend for the chip."),
}
# fmt: on


@dataclass(frozen=True)
class Support:
    """What one delegate does with one file."""

    delegate: str
    hardware: str
    ops: int  # of the file
    blocked: "dict[str, int]"  # ops that do not run there, "SOFTMAX int8": how many
    unknown: "dict[str, int]"  # ops that no rule speaks of
    grounds: "tuple[tuple[str, str], ...]"  # (evidence, source) of the rules needed, weakest last
    advice: str

    @property
    def verdict(self):
        """One of "all", "not all" and "not known"."""
        if self.blocked:
            return "not all"
        return "not known" if self.unknown else "all"


def support(content, *, fully_accelerated=None):
    """The :class:`Support` of a .tflite in bytes by every delegate of ``DELEGATES``.

    `fully_accelerated` is ``litert.is_fully_accelerated`` where it is known already.
    """
    if fully_accelerated is None:
        fully_accelerated = litert.is_fully_accelerated(content)
    typed = ops.read_ops(content)
    return tuple(
        by_rules(name, typed, fully_accelerated if name == "XNNPACK" else None)
        for name in DELEGATES
    )


def by_rules(delegate, ops, measured=None):
    """The :class:`Support` of :class:`~tflite.flatbuffer.ops.TypedOp` rows by a delegate. Pure.

    `measured` is whether all of them were seen to run; it overrules the rows.
    """
    hardware, advice = DELEGATES[delegate]
    if measured:
        return Support(delegate, hardware, len(ops), {}, {}, ((MEASURED, _LITERT),), advice)
    blocked, unknown, used = {}, {}, {}
    first = None
    for place, op in enumerate(ops):
        if op.types not in _COMPUTED and "->" not in op.types:
            continue  # shape arithmetic
        rule = next((r for r in RULES if _fits(r, delegate, op)), None)
        if rule is None:
            unknown[str(op)] = unknown.get(str(op), 0) + 1
            continue
        used[rule] = None
        if not rule.runs:
            blocked[str(op)] = blocked.get(str(op), 0) + 1
            first = place if first is None else first
    failing = [rule for rule in used if not rule.runs]
    deciding = failing or list(used)
    if failing:
        advice = " ".join(dict.fromkeys(rule.advice for rule in failing))
        if delegate == "EdgeTPU":
            taken = f"the {first} ops before it" if first else "nothing"
            advice += f" It stops at the first op that stays out: as it is, it takes {taken}."
    elif measured is False:
        unknown = unknown or {"an op that no rule names": 1}
        advice = "Something in it is not taken, and no rule here knows what."
    elif unknown:
        advice = "No rule here speaks of these ops: try it."
    grounds = dict.fromkeys((rule.evidence, rule.source) for rule in deciding)
    order = (MEASURED, DOCUMENTED, RECALLED)
    return Support(
        delegate=delegate,
        hardware=hardware,
        ops=len(ops),
        blocked=blocked,
        unknown=unknown,
        grounds=tuple(sorted(grounds, key=lambda ground: order.index(ground[0]))),
        advice=advice,
    )


_COMPUTED = (*_INT8, *_FLOAT, *_INT16, "hybrid")


def _fits(rule, delegate, op):
    return (
        rule.delegate == delegate
        and (rule.kinds is None or op.types in rule.kinds)
        and (rule.ops is None or op.name in rule.ops)
    )
