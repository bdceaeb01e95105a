import numpy as np
import pytest
from ai_edge_quantizer import quantizer, recipe

import tflite
from keras_effnet.litert import ops, runtime
from keras_effnet.litert.ops import Op
from tflite.evaluation import delegates


def _ops(*texts):
    pairs = (text.split() for text in texts)
    return [Op(name, f"t{i}", "", types, i) for i, (name, types) in enumerate(pairs)]


def _unsupported(delegate, *texts):
    return delegates.by_rules(delegate, _ops(*texts)).unsupported


@pytest.mark.parametrize(
    ("delegate", "op", "runs"),
    [
        ("XNNPACK", "CONV_2D int8", True),
        ("XNNPACK", "SOFTMAX int8", False),
        ("XNNPACK", "SOFTMAX float32", True),
        ("XNNPACK", "HARD_SWISH int8", False),
        ("XNNPACK", "HARD_SWISH float32", True),
        ("XNNPACK", "CONV_2D int16", False),
        ("XNNPACK", "QUANTIZE uint8->int8", False),
        ("XNNPACK", "DEQUANTIZE uint8->float32", True),
        ("EdgeTPU", "LOGISTIC int8", True),
        ("EdgeTPU", "SOFTMAX int8", True),
        ("EdgeTPU", "QUANTIZE uint8->int8", True),
        ("EdgeTPU", "HARD_SWISH int8", False),
        ("EdgeTPU", "MUL float32", False),
        ("EdgeTPU", "DEQUANTIZE int8->float32", False),
        ("GPU", "CONV_2D float32", True),
        ("GPU", "CONV_2D int8", True),
        ("QNN", "CONV_2D int16", True),
        ("QNN", "CONV_2D int8", True),
    ],
)
def test_rules_say_which_delegate_runs_an_op(delegate, op, runs):
    assert _unsupported(delegate, op) == ({} if runs else {op: 1})


def test_every_rule_has_a_source_and_advice():
    for rule in delegates.RULES:
        assert rule.delegate in delegates.DELEGATES
        assert rule.source
        assert rule.evidence in ("measured", "documented")
        assert rule.runs or rule.advice.endswith(".")


def test_unsupported_ops_are_counted_with_advice():
    support = delegates.by_rules(
        "XNNPACK", _ops("CONV_2D int8", "HARD_SWISH int8", "HARD_SWISH int8", "SOFTMAX int8")
    )
    assert support.verdict == "not all"
    assert support.unsupported == {"HARD_SWISH int8": 2, "SOFTMAX int8": 1}
    assert support.sources == (
        ("measured", "LiteRT 2.3 on x86: CompiledModel.is_fully_accelerated()"),
    )
    assert "float32 (preset int8)" in support.advice
    assert "swish instead" in support.advice


def test_the_edgetpu_runs_the_ops_before_the_first_unsupported_one():
    support = delegates.by_rules("EdgeTPU", _ops("CONV_2D int8", "MUL int8", "MUL float32"))
    assert "it maps the 2 ops before it" in support.advice


def test_an_op_without_a_rule_is_unknown():
    support = delegates.by_rules("GPU", _ops("CONV_2D float32", "COMPLEX_THING float32"))
    assert (support.verdict, support.unknown) == ("unknown", {"COMPLEX_THING float32": 1})


def test_a_measurement_overrules_the_rules():
    assert delegates.by_rules("XNNPACK", _ops("COMPLEX_THING float32"), True).verdict == "all"
    support = delegates.by_rules("XNNPACK", _ops("CONV_2D int8"), False)
    assert support.verdict == "unknown"
    assert "no rule names it" in support.advice


def test_gpu_ops_without_a_source_are_unknown():
    support = delegates.by_rules("GPU", _ops("CONV_2D float32", "MEAN float32", "CONV_2D int16"))
    assert support.verdict == "unknown"
    assert support.unknown == {"MEAN float32": 1, "CONV_2D int16": 1}
    assert [evidence for evidence, _ in support.sources] == ["documented"]


def test_the_xnnpack_rules_agree_with_the_runtime(float_content, int8_content, images):
    arrays = {
        name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
        for name, bounds in tflite.calibrate(float_content, images).items()
    }
    with runtime.quiet():
        strict = quantizer.Quantizer(float_content, recipe.static_wi8_ai8()).quantize(arrays)
    for content, fully in (
        (float_content, True),
        (int8_content, True),
        (bytes(strict.quantized_model), False),  # its softmax is int8
    ):
        assert runtime.is_fully_accelerated(content) is fully
        support = delegates.by_rules("XNNPACK", ops.read_ops(content))
        assert support.verdict == ("all" if fully else "not all")
        assert not support.unknown
    assert support.unsupported == {"SOFTMAX int8": 1}


def test_support_covers_every_delegate(int8_content):
    rows = delegates.support(int8_content)
    assert [row.delegate for row in rows] == list(delegates.DELEGATES)
    assert rows[0].verdict == "all"
    assert rows[1].verdict == "not all"  # normalizes in float32
