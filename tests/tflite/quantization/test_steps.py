import pathlib
import re

import numpy as np
import pytest

from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization import equalization
from tflite.quantization.state import State
from tflite.quantization.steps import STEPS, WEIGHT_STEPS, preferred_estimator, swish_stages


@pytest.mark.parametrize(
    ("divergences", "preferred"),
    [
        ({"mse": 0.1, "percentile": 0.2, "swish": 0.3}, "mse"),
        ({"mse": 0.1, "percentile": 0.2, "swish": 0.12}, "swish"),
        ({"mse": 0.1, "percentile": 0.2, "swish": 0.125}, "mse"),
        ({"mse": 0.3, "percentile": 0.2, "swish": 0.1}, "swish"),
        ({"minmax": 0.3, "percentile": 0.2, "mse": 0.4}, "percentile"),
        ({"mse": float("inf"), "swish": float("inf")}, "mse"),
    ],
)
def test_swish_estimator_is_preferred_when_almost_as_good(divergences, preferred):
    assert preferred_estimator(divergences) == preferred


def test_first_steps_are_what_other_converters_do():
    assert (STEPS[0].name, STEPS[0].threshold) == ("min-max ranges", None)
    assert (WEIGHT_STEPS[0].name, WEIGHT_STEPS[0].threshold) == ("nearest rounding", None)
    assert all(step.threshold is not None for step in (*STEPS[1:], *WEIGHT_STEPS[1:]))


def test_guide_has_the_steps_in_this_order():
    guide = pathlib.Path(__file__).parents[3] / "docs" / "tflite.md"
    text = guide.read_text(encoding="utf-8")
    titles = [title.lower() for title in re.findall(r"^\d\. \*\*([\w -]+)", text, re.M)]
    names = list(dict.fromkeys(step.name for step in STEPS if step.name in titles))
    assert [title for title in titles if title in names] == names
    assert len(names) == 5


def test_steps_that_add_operations_have_a_stricter_threshold():
    assert {step.threshold for step in STEPS if step.trials} == {0.9}
    assert {step.threshold for step in STEPS[1:] if not step.trials} == {0.99}


def test_stages_have_the_swishes_without_a_factor(trained_v1):
    graph = Graph(trained_v1)
    stages = swish_stages(State(trained_v1))
    assert list(stages) == ["stem", "block1", "block2", "top"]
    names = [name for stage in stages.values() for name in stage]
    assert names == [graph.name(swish.z) for swish in swishes(graph)]
    stem = next(g for g in equalization.groups(graph, through_swish=stages["stem"]) if g.swishes)
    equalization.apply_scale(graph, stem, np.full(graph.shape(stem.tensors[0])[-1], 2.0))
    assert list(swish_stages(State(graph.content()))) == ["block1", "block2", "top"]
