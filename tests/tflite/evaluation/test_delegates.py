import numpy as np
import pytest
from ai_edge_quantizer import quantizer, recipe

import tflite
from tflite import litert
from tflite.evaluation import delegates
from tflite.flatbuffer import ops
from tflite.flatbuffer.ops import Op


def _ops(*texts):
    pairs = (text.split() for text in texts)
    return [Op(name, f"t{i}", "", types, i) for i, (name, types) in enumerate(pairs)]


def _blocked(delegate, *texts):
    return delegates.by_rules(delegate, _ops(*texts)).blocked


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
        ("GPU", "CONV_2D int16", False),
        ("QNN", "CONV_2D int16", True),
        ("QNN", "CONV_2D int8", True),
    ],
)
def test_what_runs_where(delegate, op, runs):
    assert _blocked(delegate, op) == ({} if runs else {op: 1})


def test_every_rule_says_where_it_is_from_and_what_to_do():
    for rule in delegates.RULES:
        assert rule.delegate in delegates.DELEGATES
        assert rule.source
        assert rule.evidence in ("measured", "documented", "recalled")
        assert rule.runs or rule.advice.endswith(".")


def test_ops_that_stay_out_are_counted_and_advised_on():
    made = delegates.by_rules(
        "XNNPACK", _ops("CONV_2D int8", "HARD_SWISH int8", "HARD_SWISH int8", "SOFTMAX int8")
    )
    assert made.verdict == "not all"
    assert made.blocked == {"HARD_SWISH int8": 2, "SOFTMAX int8": 1}
    assert made.grounds == (
        ("measured", "LiteRT 2.3 on x86: CompiledModel.is_fully_accelerated()"),
    )
    assert "float32 (preset int8)" in made.advice
    assert "swish instead" in made.advice


def test_the_edgetpu_takes_what_stands_before_the_first_that_stays_out():
    made = delegates.by_rules("EdgeTPU", _ops("CONV_2D int8", "MUL int8", "MUL float32"))
    assert "it takes the 2 ops before it" in made.advice


def test_an_op_that_no_rule_speaks_of_is_not_known():
    made = delegates.by_rules("GPU", _ops("CONV_2D float32", "COMPLEX_THING float32"))
    assert (made.verdict, made.unknown) == ("not known", {"COMPLEX_THING float32": 1})


def test_what_is_measured_overrules_the_rows():
    assert delegates.by_rules("XNNPACK", _ops("COMPLEX_THING float32"), True).verdict == "all"
    made = delegates.by_rules("XNNPACK", _ops("CONV_2D int8"), False)
    assert made.verdict == "not known"
    assert "no rule here knows what" in made.advice


def test_what_is_only_recalled_says_so():
    made = delegates.by_rules("GPU", _ops("CONV_2D float32", "MEAN float32"))
    assert [known for known, _ in made.grounds] == ["documented", "recalled"]


def test_the_rows_of_xnnpack_are_what_the_runtime_does(float_content, int8_content, images):
    arrays = {
        name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
        for name, bounds in tflite.calibrate(float_content, images).items()
    }
    with litert._quiet():
        strict = quantizer.Quantizer(float_content, recipe.static_wi8_ai8()).quantize(arrays)
    for content, fully in (
        (float_content, True),
        (int8_content, True),
        (bytes(strict.quantized_model), False),  # its softmax is int8
    ):
        assert litert.is_fully_accelerated(content) is fully
        made = delegates.by_rules("XNNPACK", ops.read_ops(content))
        assert made.verdict == ("all" if fully else "not all")
        assert not made.unknown
    assert made.blocked == {"SOFTMAX int8": 1}


def test_every_delegate_is_asked(int8_content):
    rows = delegates.support(int8_content)
    assert [row.delegate for row in rows] == list(delegates.DELEGATES)
    assert rows[0].verdict == "all"
    assert rows[1].verdict == "not all"  # normalises in float
