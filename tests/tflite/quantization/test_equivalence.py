import numpy as np
import pytest

import tflite
from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.equivalence import require_same_scores


def _with_changed_bias(model, change):
    graph = Graph(model)
    op = [op for op in graph.operations if op.name in LINEAR][-1]
    bias = graph.constant(op.inputs[2])
    graph.set_constant(op.inputs[2], bias + change * np.eye(len(bias))[0])
    return graph.content()


def test_changes_below_the_tolerance_are_accepted(trained_v1, photos):
    require_same_scores(trained_v1, _with_changed_bias(trained_v1, 1e-5), photos[:4], "nothing")


@pytest.mark.parametrize("change", [0.1, np.nan])
def test_changed_scores_are_an_error(trained_v1, photos, change):
    changed = _with_changed_bias(trained_v1, change)
    with pytest.raises(tflite.ConversionError, match=r"the transform changes the scores by"):
        require_same_scores(trained_v1, changed, photos[:4], "the transform")
