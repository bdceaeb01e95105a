import pytest

import tflite
from tflite.flatbuffer.graph import Graph
from tflite.quantization import range_search
from tflite.quantization.objective import Objective


@pytest.fixture
def start(trained_v1, photos):
    """(float .tflite, min-max ranges, plan)."""
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8", calibration_images=16)
    return trained_v1, tflite.calibrate(trained_v1, photos[:16]), plan


def test_search_improves_ranges_that_are_wrong(start, photos):
    model, ranges, plan = start
    objective = Objective(model, photos[:16])
    names = [op.output for op in plan.ops if op.name == "CONV_2D"]
    wrong = dict(ranges)
    for name, factor in ((names[0], 1.25 / 0.8**3), (names[2], 0.6)):  # too wide, too narrow
        wrong[name] = {end: factor * value for end, value in ranges[name].items()}
    better, tried = range_search.search_ranges(
        model, wrong, plan, objective, evaluations=9, tensors=[names[0], names[2]]
    )
    assert tried == 2
    before, after = (objective(tflite.quantize(model, r, plan))[0] for r in (wrong, better))
    assert after < 0.99 * before
    changed = {name for name in wrong if better[name] != wrong[name]}
    assert changed <= {names[0], names[2]}
    assert all(bounds["min"] <= bounds["max"] for bounds in better.values())


def test_search_without_improvement_returns_the_same_ranges(start, photos):
    model, ranges, plan = start

    class Constant(Objective):
        def __call__(self, model):
            return 1.0, 1.0

    names = range_search.searchable_tensors(Graph(model), ranges)[:3]
    found, tried = range_search.search_ranges(
        model, ranges, plan, Constant(model, photos[:2]), evaluations=99, tensors=names
    )
    assert (found, tried) == (ranges, 3)


@pytest.mark.parametrize(("evaluations", "tried"), [(0, 0), (1, 0), (2, 1), (5, 1), (6, 2)])
def test_search_ends_after_its_number_of_evaluations(start, photos, evaluations, tried):
    model, ranges, plan = start

    class Constant(Objective):
        def __call__(self, model):
            return 1.0, 1.0

    names = range_search.searchable_tensors(Graph(model), ranges)[:3]
    found = range_search.search_ranges(
        model, ranges, plan, Constant(model, photos[:2]), evaluations=evaluations, tensors=names
    )
    assert found == (ranges, tried)


def test_search_ends_after_four_tensors_in_a_row_without_improvement(start, photos):
    model, ranges, plan = start

    class Falling(Objective):
        """Lower from the seventh model, the second of the second tensor."""

        models = 0

        def __call__(self, model):
            self.models += 1
            return 1.0 if self.models < 7 else 0.5, 1.0

    names = range_search.searchable_tensors(Graph(model), ranges)[:9]
    found, tried = range_search.search_ranges(
        model, ranges, plan, Falling(model, photos[:2]), evaluations=99, tensors=names
    )
    assert tried == 2 + 4
    assert [name for name in names if found[name] != ranges[name]] == [names[1]]


def test_input_and_sigmoids_are_not_searched(start):
    model, ranges, _ = start
    graph = Graph(model)
    names = range_search.searchable_tensors(graph, ranges)
    fixed = {graph.name(op.output) for op in graph.operations if op.name == "LOGISTIC"}
    assert not {graph.name(graph.input), *fixed} & set(names)
    assert len(names) == len(set(names)) > 20


def test_tensor_with_the_lowest_sqnr_comes_first(start, photos):
    model, ranges, plan = start
    names = [op.output for op in plan.ops if op.name == "DEPTHWISE_CONV_2D"]
    wide = {**ranges, names[0]: {end: 100 * value for end, value in ranges[names[0]].items()}}
    quantized = tflite.quantize(model, wide, plan)
    order = range_search.noisiest_first(model, quantized, photos[:2], names[::-1])
    assert order[0] == names[0]
    assert sorted(order) == sorted(names)
