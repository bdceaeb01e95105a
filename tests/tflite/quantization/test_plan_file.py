import json
import pathlib
import re

import pytest

import tflite
from tflite.presets import find_preset
from tflite.quantization.plan import OpPlan, QuantPlan
from tflite.quantization.plan_file import network_id, parse_plan, plan_json, read_plan

_OPS = (
    OpPlan("CONV_2D", "stem_conv", "int8"),
    OpPlan("LOGISTIC", "stem_activation/Sigmoid", "int8"),
    OpPlan("CONV_2D", "block1a_conv", "int8"),
    OpPlan("ADD", "block1a_add", "int8"),
    OpPlan("HARD_SWISH", "block2a_swish", "float32", "no kernel"),
    OpPlan("CONV_2D", "block[2]", "int8"),
)
_PLAN = QuantPlan(find_preset("int8"), _OPS)
_RANGES = {op.output: {"min": -1.0, "max": 2.0} for op in _OPS}


def _rows(*rows, **keys):
    return parse_plan({"ops": list(rows), **keys}, "plan.json")


def _precisions(plan):
    return [op.precision for op in plan.ops]


def test_plan_that_is_written_changes_nothing_when_it_is_given_back():
    content = json.loads(json.dumps(plan_json(_PLAN, _RANGES)))
    plan_file = parse_plan({"preset": "int8", "report": {}, "quantization_plan": content})
    plan_file.check(_PLAN)
    assert plan_file.applied(_PLAN, _RANGES) == (_PLAN, _RANGES)


@pytest.mark.parametrize(
    ("row", "floats"),
    [
        ({"output": "stem_conv"}, [0]),
        ({"output": "block1a_*"}, [2, 3]),
        ({"output": "*", "op": "ADD"}, [3]),
        ({"output": "*_add"}, [3]),
        ({"output": "*a_c?nv"}, [2]),
        ({"output": "block[2]"}, [5]),  # a name is taken as it is
        ({"output": "block[12]a_add"}, [3]),
    ],
)
def test_precision_is_set_by_name_or_pattern(row, floats):
    plan_file = _rows({**row, "precision": "float32"})
    plan_file.check(_PLAN)
    plan, _ = plan_file.applied(_PLAN, _RANGES)
    changed = [i for i, op in enumerate(plan.ops) if op != _PLAN.ops[i]]
    assert changed == floats
    assert {plan.ops[i].reason for i in changed} == {"plan.json"}


def test_the_last_row_that_matches_counts():
    plan_file = _rows(
        {"output": "*", "precision": "float32", "range": [-3, 3]},
        {"output": "block1a_add", "precision": "int8"},
        {"output": "stem*", "range": [-4, 4]},
    )
    plan, ranges = plan_file.applied(_PLAN, _RANGES)
    assert _precisions(plan) == ["float32", "float32", "float32", "int8", "float32", "float32"]
    assert ranges["stem_conv"] == {"min": -4.0, "max": 4.0}
    assert ranges["block1a_add"] == {"min": -3.0, "max": 3.0}
    assert ranges["stem_activation/Sigmoid"] == _RANGES["stem_activation/Sigmoid"]  # fixed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"output": "blok1a_*", "precision": "float32"}], "matches 'blok1a_*'. Did you mean 'blo"),
        ([{"output": "stem_conw", "range": [0, 1]}], "Did you mean 'stem_conv'"),
        ([{"output": "*", "op": "CONV", "range": [0, 1]}], "Unknown op 'CONV'. Did you mean 'CO"),
        ([{"output": "stem*", "op": "ADD", "range": [0, 1]}], "no output of a ADD is named"),
        ([{"output": "*swish", "precision": "int8"}], "(HARD_SWISH) cannot be int8: no kernel"),
        ([{"output": "*Sigmoid", "range": [0, 1]}], "(LOGISTIC) is fixed by the kernel"),
    ],
)
def test_rows_that_do_not_fit_the_network_are_errors(rows, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        _rows(*rows).check(_PLAN)
    assert str(caught.value).startswith("plan.json: ")


def test_plan_of_another_network_is_an_error():
    content = plan_json(_PLAN, _RANGES)
    other = QuantPlan(_PLAN.preset, (*_OPS[:3], OpPlan("CONV_2D", "more", "int8")))
    message = "plan of another network: it has 3 of the 4 ops of this one"
    with pytest.raises(ValueError, match=message):
        parse_plan(content).check(other)
    del content["network"]
    content["ops"] = content["ops"][:3]
    parse_plan(content).check(other)


def test_network_is_the_same_for_every_preset():
    unlike = [OpPlan("PAD", "border", "float32"), *_OPS]
    assert network_id(unlike) == network_id(_OPS) != network_id(_OPS[:2])


def test_range_that_kernels_abort_on_is_an_error():
    for bounds in ([-200, 200], [0, 0], [-1e-3, 1e-3]):
        with pytest.raises(ValueError, match="Kernels take at most 64 times that"):
            _rows({"output": "stem_conv", "range": bounds}).applied(_PLAN, _RANGES)
    _, ranges = _rows({"output": "stem_conv", "range": [-100, 100]}).applied(_PLAN, _RANGES)
    assert ranges["stem_conv"]["max"] == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is a list; a plan is"),
        ("int8", "is a str"),
        (None, "is a NoneType"),
        ({}, "has no keys; a plan is"),
        ({"ops": {}}, "has 'ops'; a plan is"),
        ({"preset": "int8", "plan": ["preset int8"]}, "has 'preset', 'plan'; a plan is"),
        ({"ops": []}, "has no ops"),
        ({"ops": [3]}, "op 1: give an object with 'output', got 3"),
        ({"ops": [{}]}, "op 1: 'output' must be a tensor's name or a pattern, got None"),
        ({"ops": [{"output": 3}]}, "got 3"),
        ({"ops": [{"output": "*"}]}, "op 1 (*): give 'precision' or 'range'"),
        ({"ops": [{"output": "*", "precisio": "int8"}]}, "'precisio'. Did you mean 'precision'"),
        ({"ops": [{"output": "*", "precision": "int9"}]}, "Unknown precision 'int9'. Did you mean"),
        ({"ops": [{"output": "*", "precision": 8}]}, "Unknown precision 8"),
        ({"ops": [{"output": "*", "op": 8, "range": [0, 1]}]}, "'op' must be a kind of op, got 8"),
        ({"ops": [{"output": "*", "range": [1, 0]}]}, "must be [smallest, largest] value"),
        ({"ops": [{"output": "*", "range": [0]}]}, "got [0]"),
        ({"ops": [{"output": "*", "range": 3}]}, "got 3"),
        ({"ops": [{"output": "*", "range": ["0", "1"]}]}, "got ['0', '1']"),
        ({"ops": [{"output": "*", "range": [0, float("nan")]}]}, "got [0, nan]"),
        ({"ops": [{"output": "*", "range": [0, float("inf")]}]}, "got [0, inf]"),
        ({"ops": [{"output": "*", "range": [0, 1e300]}]}, "got [0, 1e+300]"),
        ({"ops": [{"output": "*", "range": [True, 2]}]}, "got [True, 2]"),
        ({"ops": [{"output": "*", "range": {"min": 0}}]}, "'range' must be"),
        ({"preset": "int9", "ops": [{"output": "*", "range": [0, 1]}]}, "Did you mean 'int8'"),
        ({"preset": 8, "ops": [{"output": "*", "range": [0, 1]}]}, "'preset' must be a text"),
        ({"net": "", "ops": [{"output": "*", "range": [0, 1]}]}, "Unknown key 'net'. Did you mean"),
    ],
)  # fmt: skip
def test_malformed_plan_is_one_clear_error(content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_plan(content, "plan.json")
    assert str(caught.value).startswith("plan.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value in line 1, column 1"),
        (b'{"ops": [\n{"output": "*",}]}', "is not JSON: "),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b"[" * 100_000, "is not JSON of a plan: it is nested too deeply"),
        (None, "is not a file"),
    ],
)
def test_unreadable_plan_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_plan(path)


def test_plan_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b'\xef\xbb\xbf{"ops": [{"output": "*", "range": [0, 1]}]}')
    assert read_plan(path).name == "plan.json"


@pytest.mark.parametrize(
    ("preset", "precision", "message"),
    [
        ("int8", "int16", "preset int8 has float32 and int8 (int16: preset int16x8)"),
        ("int16x8", "int8", "preset int16x8 has float32 and int16"),
        ("int8_strict", "float32", "preset int8_strict has int8"),
        ("float16", "float32", "preset float16 computes all ops in float32 and takes no plan"),
        ("int8_mixed", "float32", None),
        ("int16x8", "int16", None),
    ],
)
def test_precision_that_a_preset_does_not_have_is_an_error(preset, precision, message):
    plan_file = _rows({"output": "*", "precision": precision})
    if message is None:
        plan_file.check_preset(find_preset(preset))
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_file.check_preset(find_preset(preset))


# Conversions ----------------------------------------------------------------------------------


def test_plan_in_the_documentation_is_followed(trained_v1, photos):
    text = (pathlib.Path(__file__).parents[3] / "docs" / "tflite.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.S)
    conversion = tflite.convert(
        trained_v1, calibration=photos[:16], search_evaluations=0, recipe=json.loads(example)
    )
    block = [op for op in conversion.plan.ops if op.output.startswith("block1a_")]
    assert {op.precision for op in block} == {"float32"}
    assert {"min": -4.0, "max": 4.0} in conversion.ranges.values()


def test_edited_plan_of_a_conversion_is_followed(trained_v1, photos):
    quick = {"calibration": photos[:24], "search_evaluations": 0}
    conversion = tflite.convert(trained_v1, **quick)
    content = json.loads(json.dumps(conversion.as_dict()))
    again = tflite.convert(trained_v1, recipe=content, **quick)
    assert again.tflite_model == conversion.tflite_model
    name = next(op.output for op in conversion.plan.ops if op.name == "DEPTHWISE_CONV_2D")
    rows = [
        {"output": name, "precision": "float32"},
        {"output": "*", "op": "ADD", "range": [-9, 9]},
    ]
    edited = tflite.convert(trained_v1, recipe={"ops": rows}, **quick)
    types = {op.output: op.dtype for op in tflite.read_ops(edited.tflite_model)}
    assert types[name] == "FLOAT32"
    adds = [op.output for op in edited.plan.ops if op.name == "ADD"]
    assert {edited.ranges[add]["max"] for add in adds} == {9.0}
    assert edited.as_dict()["quantization_plan"]["ops"] != content["quantization_plan"]["ops"]


def test_plan_and_budget_or_other_preset_contradict_each_other(float_content, images):
    plan = {"preset": "int8", "ops": [{"output": "*", "range": [0, 1]}]}
    with pytest.raises(ValueError, match="is a plan of preset int8, and preset int16x8 is asked"):
        tflite.convert(float_content, calibration=images, preset="int16x8", recipe=plan)
    del plan["preset"]
    with pytest.raises(ValueError, match="leave one of them out"):
        tflite.convert(float_content, calibration=images, min_agreement=0.9, recipe=plan)
