import pathlib
import re

import numpy as np

from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization import equalization
from tflite.quantization.state import State
from tflite.quantization.steps import STEPS, WEIGHT_STEPS, other_estimators, swish_stages


def test_first_steps_are_what_other_converters_do():
    assert (STEPS[0].name, STEPS[0].least_gain) == ("min-max ranges", None)
    assert (WEIGHT_STEPS[0].name, WEIGHT_STEPS[0].least_gain) == ("nearest rounding", None)
    assert all(step.least_gain is not None for step in (*STEPS[1:], *WEIGHT_STEPS[1:]))


def test_swish_estimator_is_tried_first_and_the_present_one_not_at_all():
    names = [choice.argument for choice in other_estimators(State(b"", estimator="minmax"))]
    assert names == ["swish", "mse"]
    names = [choice.argument for choice in other_estimators(State(b"", estimator="swish"))]
    assert names == ["mse"]


def test_guide_has_the_steps_in_this_order():
    guide = pathlib.Path(__file__).parents[3] / "docs" / "tflite.md"
    text = guide.read_text(encoding="utf-8")
    titles = [title.lower() for title in re.findall(r"^\d\. \*\*([\w -]+)", text, re.M)]
    names = list(dict.fromkeys(step.name for step in STEPS if step.name in titles))
    assert [title for title in titles if title in names] == names
    assert len(names) == 4


def test_steps_that_add_operations_need_a_larger_gain():
    assert {step.least_gain for step in STEPS if step.cumulative} == {0.05}
    assert {step.least_gain for step in STEPS[1:] if not step.cumulative} == {0.0}


def test_stages_have_the_swishes_without_a_factor(trained_v1):
    graph = Graph(trained_v1)
    stages = {each.suffix: each.argument for each in swish_stages(State(trained_v1))}
    assert list(stages) == [", stem", ", block1", ", block2", ", top"]
    names = [name for stage in stages.values() for name in stage]
    assert names == [graph.name(swish.z) for swish in swishes(graph)]
    stem = next(g for g in equalization.groups(graph, through_swish=stages[", stem"]) if g.swishes)
    equalization.apply_scale(graph, stem, np.full(graph.shape(stem.tensors[0])[-1], 2.0))
    rest = swish_stages(State(graph.content()))
    assert [each.suffix for each in rest] == [", block1", ", block2", ", top"]
