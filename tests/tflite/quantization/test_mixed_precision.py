import dataclasses

import pytest

import tflite
from keras_effnet.litert import runtime
from tflite.flatbuffer.graph import Graph
from tflite.quantization.mixed_precision import (
    Budget,
    Float32Region,
    best_result,
    candidate_regions,
    fewest,
    measure_regions,
    operation_shares,
    rank_regions,
    with_regions,
    within_budget,
)
from tflite.quantization.objective import Objective
from tflite.quantization.state import State

# Budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "agreement", "drop", "met"),
    [
        (Budget(min_agreement=0.9), 0.9, None, True),
        (Budget(min_agreement=0.9), 0.895, None, False),
        (Budget(min_agreement=0.9), 1.0, 50.0, True),
        (Budget(max_drop=2.0), 0.1, 2.0, True),
        (Budget(max_drop=2.0), 1.0, 2.5, False),
        (Budget(max_drop=2.0), 1.0, -3.0, True),
        (Budget(max_drop=2.0), 1.0, None, True),  # no labels, no drop
        (Budget(max_drop=2.0, min_agreement=0.9), 0.9, 2.0, True),
        (Budget(max_drop=2.0, min_agreement=0.9), 0.8, 0.0, False),
        (Budget(max_drop=2.0, min_agreement=0.9), 1.0, 3.0, False),
    ],
)
def test_budget_is_met_at_its_limits(budget, agreement, drop, met):
    assert budget.met(agreement, drop) is met
    assert (budget.missed(agreement, drop) == "") is met


def test_missed_limits_are_named():
    budget = Budget(max_drop=2.0, min_agreement=0.9)
    assert budget.missed(0.85, 3.0) == "85.00% agreement and 3.00 points lost"
    assert str(budget) == (
        "at most 2 points of top-1 lost and at least 90.00% prediction agreement"
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_drop": -1}, r"max_drop must be in \[0, 100\).*got -1"),
        ({"max_drop": 100}, r"got 100"),
        ({"min_agreement": 97}, r"min_agreement must be in \(0, 1\], e.g. 0.97, got 97"),
        ({"min_agreement": 0}, r"got 0"),
    ],
)
def test_limits_out_of_range_are_errors(limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(**limits)


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([(0.8, None), (0.9, None), (0.85, None)], (0.9, None)),
        ([(0.9, 2.0), (0.9, 1.0)], (0.9, 1.0)),
        ([(0.9, 0.0), (0.95, 3.0)], (0.95, 3.0)),
    ],
)
def test_best_result_has_the_highest_agreement(results, best):
    assert best_result(results) == best


# Ranking --------------------------------------------------------------------------------------


def _region(name, kl, cost, outputs=None):
    return Float32Region(name, tuple(outputs or name), kl, cost)


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        ([("a", 0.4, 4), ("b", 0.3, 1), ("c", 0.1, 2)], "bac"),
        ([("a", 0.2, 1), ("b", 0.5, 1)], "ba"),
        ([("a", 0.2, 0.0), ("b", 0.5, 0.005)], "ba"),  # small ones count as 1 % of the operations
        ([("a", 0.0, 0), ("b", 0.1, 50)], "ba"),
    ],
)
def test_regions_are_ranked_by_divergence_per_cost(regions, order):
    ranked = rank_regions([_region(*region) for region in regions])
    assert "".join(region.name for region in ranked) == order


def test_overlapping_regions_count_for_what_is_left_of_them():
    regions = [
        _region("both", 0.6, 2, "ab"),
        _region("a", 0.5, 1),
        _region("c", 0.2, 1),
        _region("b", 0.1, 1),
    ]
    ranked = rank_regions(regions)
    assert [region.name for region in ranked] == ["a", "c", "both"]  # b is in both


@pytest.mark.parametrize("total", [1, 2, 7, 20])
def test_fewest_finds_the_smallest_number_that_suffices(total):
    for needed in range(1, total + 1):
        assert fewest(total, lambda n, needed=needed: n >= needed) == needed
    assert fewest(total, lambda n: False) is None


# On a network ---------------------------------------------------------------------------------


@pytest.fixture
def int8(trained_v1, photos):
    """(state with ranges that clip the last convolution, plan, objective)."""
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8_mixed", calibration_images=16)
    ranges = tflite.calibrate(trained_v1, photos[:16])
    for name in ranges:
        if name.startswith("top_bn"):
            ranges[name] = {end: value / 6 for end, value in ranges[name].items()}
    state = State(trained_v1, ranges, exact_model=trained_v1, uncompensated_model=trained_v1)
    return state, plan, Objective(trained_v1, photos[:24])


def test_candidate_regions_cover_all_int8_ops(trained_v1):
    for preset in ("int8", "int8_strict"):
        plan = tflite.make_plan(tflite.read_ops(trained_v1), preset)
        regions = candidate_regions(trained_v1, plan)
        assert set().union(*regions.values()) == plan.outputs("int8")
    assert {"stem", "block1a", "block2a", "block2b", "top", "squeeze-excite branches",
            "residual additions", "last layer"} <= regions.keys()  # fmt: skip
    types = {op.output: op.name for op in plan.ops}
    assert {types[name] for name in regions["residual additions"]} == {"ADD"}
    assert [types[name] for name in regions["last layer"]] == ["FULLY_CONNECTED"]
    assert all("_se_" in name for name in regions["squeeze-excite branches"])


@pytest.mark.slow
def test_fewest_regions_meet_a_budget_that_int8_misses(int8):
    state, plan, objective = int8
    agreement = objective(state.quantized(plan))[1]
    assert agreement < 0.9
    chosen, regions = within_budget(
        Budget(min_agreement=0.9),
        state,
        plan,
        held_out=objective,
        objective=objective,
    )
    assert regions
    assert "top" in {region.name for region in regions}
    model = state.quantized_with_regions(chosen)
    assert objective(model)[1] >= 0.9
    assert runtime.is_fully_accelerated(model)
    floats = {op.output for op in tflite.read_ops(model) if op.dtype == "FLOAT32"}
    for region in regions:
        assert set(region.outputs) <= floats
        assert f"float32 region: {region.name}" in str(chosen)


def test_budget_that_int8_meets_needs_no_region(int8):
    state, plan, objective = int8
    lines = []
    result = within_budget(
        Budget(min_agreement=0.01), state, plan, held_out=objective, objective=objective,
        log=lines.append,
    )  # fmt: skip
    assert result == (plan, ())
    assert len(lines) == 1


def test_impossible_budget_names_the_best_result(int8, photos):
    state, plan, objective = int8
    never = Objective(state.float32_model, photos[:24], labels=objective.predictions)
    never.predictions = (never.predictions + 1) % 10
    message = r"meets the budget \(at least 99.00%.*on 24 held-out images; best result: \d.*lost"
    with pytest.raises(tflite.BudgetError, match=message):
        within_budget(Budget(min_agreement=0.99), state, plan, held_out=never, objective=objective)


def test_regions_are_measured_alone(int8):
    state, plan, objective = int8
    candidates = candidate_regions(state.float32_model, plan)
    some = {name: candidates[name] for name in ("top", "block2a")}
    all_int8 = objective(state.quantized(plan))[0]
    top, block = measure_regions(state, plan, some, objective)
    assert 0.5 * all_int8 < top.kl_divergence
    assert 0 < block.kl_divergence < top.kl_divergence
    assert f"KL divergence {top.kl_divergence:.5f}" in top.reason
    assert 0 < top.cost < 1


def test_cost_is_the_share_of_multiply_adds(trained_v1):
    graph = Graph(trained_v1)
    shares = operation_shares(trained_v1)
    assert sum(shares.values()) == pytest.approx(1)
    layers = {op.name: op for op in graph.operations if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D")}
    dense, depthwise = (layers[name] for name in ("CONV_2D", "DEPTHWISE_CONV_2D"))

    def macs(op):
        kernel, output = graph.shape(op.inputs[1]), graph.shape(op.output)
        inputs = kernel[-1] if op.name == "CONV_2D" else 1
        return kernel[1] * kernel[2] * inputs * output[1] * output[2] * output[3]

    ratio = shares[graph.name(dense.output)] / shares[graph.name(depthwise.output)]
    assert ratio == pytest.approx(macs(dense) / macs(depthwise))


def test_regions_are_written_into_the_plan(int8):
    _, plan, _ = int8
    name = next(iter(plan.outputs("int8")))
    changed = with_regions(plan, [dataclasses.replace(_region("x", 1, 1), outputs=(name,))])
    assert changed.outputs("int8") == plan.outputs("int8") - {name}
    assert "(float32 region: x)" in str(changed)
