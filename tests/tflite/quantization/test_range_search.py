import time

import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.evaluation import classifier, paired_statistics
from tflite.flatbuffer.graph import Graph
from tflite.flatbuffer.ops import Op
from tflite.quantization import range_estimation, range_search
from tflite.quantization.calibration import collect_histograms


@pytest.fixture
def begun(trained, photos):
    """(float .tflite, min-max ranges, plan)."""
    found = range_estimation.choose(trained, collect_histograms(trained, photos[:16]), "minmax")
    plan = tflite.make_plan(tflite.read_ops(trained), "int8", calibration_images=16)
    return trained, found, plan


def _make(content, found, plan):
    return tflite.quantize(content, found, plan)


# the judge ------------------------------------------------------------------------------------


def test_the_float_file_is_no_distance_from_itself(trained, photos):
    assert range_search.Objective(trained, photos[:8])(trained) == (0.0, 1.0)


def test_the_divergence_is_kl_in_nats(begun, photos):
    content, found, plan = begun
    quantized = _make(content, found, plan)
    p, q = (litert.scores(litert.interpreter(c), photos[:8]) for c in (content, quantized))
    kl, agreement = range_search.Objective(content, photos[:8])(quantized)
    assert kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-3)
    assert agreement == (p.argmax(-1) == q.argmax(-1)).mean()


def test_the_worst_images_do_not_hide_the_others(begun, photos, monkeypatch):
    content, *_ = begun
    judge = range_search.Objective(content, photos[:40])
    each = np.full(40, 0.1)
    each[7] = 1000
    monkeypatch.setattr(paired_statistics, "divergences", lambda *_: each)
    assert judge(content)[0] == pytest.approx(0.1)
    each[[3, 8]] = 1000  # more than 3 in 100 are no accident
    assert judge(content)[0] > 1


def test_the_answers_are_the_files_own(begun, photos):
    content, found, plan = begun
    quantized = _make(content, found, plan)
    judge = range_search.Objective(content, photos[:8])
    divergence, top = judge.look(quantized)
    np.testing.assert_array_equal(
        top, litert.scores(litert.interpreter(quantized), photos[:8]).argmax(-1)
    )
    assert (divergence, (top == judge.top).mean()) == judge(quantized)


# ranges ---------------------------------------------------------------------------------------


def _spoiled(found, plan):
    """The ranges with one far too wide and one far too narrow."""
    names = [op.output for op in plan.ops if op.name == "CONV_2D"]
    changed = dict(found)
    for name, factor in ((names[0], 1.25 / 0.8**3), (names[2], 0.6)):
        changed[name] = {end: factor * value for end, value in found[name].items()}
    return changed


def test_a_searched_range_is_never_worse_on_its_images(begun, photos, monkeypatch):
    content, found, plan = begun
    judge = range_search.Objective(content, photos[:16])
    spoiled = _spoiled(found, plan)
    wrong = [name for name in found if spoiled[name] != found[name]]
    monkeypatch.setattr(range_search, "_noisiest", lambda *_: wrong)

    def make(changed):
        return _make(content, changed, plan)

    better, tried = range_search.search_ranges(content, spoiled, make, judge, seconds=60)
    assert tried == 2
    assert judge(make(better))[0] < 0.99 * judge(make(spoiled))[0]
    assert better.keys() == spoiled.keys()
    for bounds in better.values():
        assert bounds["min"] <= bounds["max"]
    network = Graph(content)
    fixed = {network.name(op.output) for op in network.operations if op.name == "LOGISTIC"}
    for name in fixed | {network.name(network.input)}:
        assert better[name] == found[name]


def test_a_search_that_finds_nothing_returns_what_it_was_given(begun, photos):
    content, found, _ = begun
    answers = iter([1.0] * 1000)

    class Objective(range_search.Objective):
        def __call__(self, content):
            return next(answers), 1.0

    same, tried = range_search.search_ranges(
        content, found, lambda _: content, Objective(content, photos[:2]), seconds=60
    )
    assert same == found
    assert 20 < tried < len(found)


def test_no_time_is_no_search(begun, photos):
    content, found, plan = begun
    judge = range_search.Objective(content, photos[:2])
    start = time.monotonic()
    same, tried = range_search.search_ranges(
        content, found, lambda changed: _make(content, changed, plan), judge, seconds=0
    )
    assert (same, tried) == (found, 0)
    assert time.monotonic() - start < 5


def test_the_noisiest_tensor_is_tried_first(begun, photos):
    content, found, plan = begun
    name = next(op.output for op in plan.ops if op.name == "DEPTHWISE_CONV_2D")
    changed = {**found, name: {end: 100 * value for end, value in found[name].items()}}
    names = [op.output for op in plan.ops if op.name == "DEPTHWISE_CONV_2D"]
    order = range_search._noisiest(content, _make(content, changed, plan), photos[:2], names[::-1])
    assert order[0] == name
    assert sorted(order) == sorted(names)


# islands --------------------------------------------------------------------------------------


def test_islands_are_blocks_branches_sums_and_the_last_layer(begun):
    content, *_ = begun
    plan = tflite.make_plan(tflite.read_ops(content), "int8_strict", calibration_images=16)
    found = range_search.islands(content, plan)
    assert {"stem", "block1a", "block2a", "block2b", "top", "squeeze-excite branches",
            "residual additions", "last layer"} <= found.keys()  # fmt: skip
    int8 = {op.output for op in plan.ops if op.precision == "int8"}
    assert set().union(*found.values()) == int8
    types = {op.output: op.name for op in plan.ops}
    assert {types[name] for name in found["residual additions"]} == {"ADD"}
    assert [types[name] for name in found["last layer"]] == ["FULLY_CONNECTED"]
    assert all("_se_" in name for name in found["squeeze-excite branches"])


def test_what_is_float_already_is_no_island(begun):
    content, _, plan = begun
    int8 = {op.output for op in plan.ops if op.precision == "int8"}
    assert set().union(*range_search.islands(content, plan).values()) == int8


class _Fake:
    """Files are frozen sets of float tensors; every other one adds its noise."""

    def __init__(self, monkeypatch, noise, costs):
        self.noise = noise
        monkeypatch.setattr(
            range_search, "latency_ms", lambda *fs, **_: [1 + sum(costs[t] for t in f) for f in fs]
        )

    def make(self, plan):
        return frozenset(op.output for op in plan.ops if op.precision == "float32")

    def first(self, count):
        return self

    def __call__(self, made):
        return sum(noise for t, noise in self.noise.items() if t not in made), 1.0


def _letters(monkeypatch, noise, costs, candidates=None, seconds=60):
    """(plan, its islands in order, the judge)."""
    plan = tflite.make_plan([Op("CONV_2D", name, "FLOAT32") for name in noise], "int8")
    fake = _Fake(monkeypatch, noise, costs)
    candidates = candidates or {f"island {name}": (name,) for name in noise}
    ranked = range_search.ranked_islands(plan, candidates, fake.make, fake, seconds=seconds)
    return plan, ranked, fake


def _search(monkeypatch, noise, costs, budget, **options):
    """(what is float, the islands) for a divergence of that budget."""
    plan, ranked, fake = _letters(monkeypatch, noise, costs, **options)
    found = range_search.fewest_islands(
        plan, ranked, fake.make, lambda made: fake(made)[0] <= budget
    )
    return found and (fake.make(found[0]), found[1])


def test_the_most_gain_for_its_time_comes_first(monkeypatch):
    noise, costs = {"a": 0.4, "b": 0.3, "c": 0.1}, {"a": 4, "b": 1, "c": 2}
    made, chosen = _search(monkeypatch, noise, costs, budget=0.5001)
    assert made == {"b"}
    assert chosen[0].kl == pytest.approx(0.3)
    assert chosen[0].latency_ms == pytest.approx(1)
    assert "makes a divergence of 0.30000; float32 costs 1.00 ms" in chosen[0].why


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.2, 0.35, 0.5, 0.8, 0.99])
def test_no_more_islands_than_it_takes(monkeypatch, budget):
    noise = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    made, chosen = _search(monkeypatch, noise, dict.fromkeys(noise, 1), budget=budget + 1e-9)
    left = [sum(list(noise.values())[n:]) for n in range(5)]
    fewest = next(n for n in range(5) if left[n] <= budget + 1e-9)
    assert made == set(list(noise)[:fewest])
    assert len(chosen) == fewest


def test_a_budget_out_of_reach_has_no_answer(monkeypatch):
    assert _search(monkeypatch, {"a": 0.2, "b": 0.5}, {"a": 1, "b": 1}, budget=-0.1) is None


def test_without_time_one_candidate_is_looked_at_and_the_others_come_last(monkeypatch):
    noise = {"a": 0.2, "b": 0.5}
    _, ranked, _ = _letters(monkeypatch, noise, {"a": 1, "b": 1}, seconds=0)
    assert [island.name for island in ranked] == ["island a", "island b"]
    assert "no time" in ranked[1].why


def test_islands_that_overlap_are_worth_what_is_left_of_them(monkeypatch):
    noise, costs = {"a": 0.5, "b": 0.1, "c": 0.2}, {"a": 1, "b": 1, "c": 1}
    candidates = {"both": ("a", "b"), "a": ("a",), "c": ("c",), "b": ("b",)}
    _, ranked, _ = _letters(monkeypatch, noise, costs, candidates)
    assert [island.name for island in ranked] == ["a", "c", "both"]  # half of both was left


def test_a_reachable_budget_is_met_by_a_real_file(begun, photos):
    """Floats where it says so, and nearer to the float scores than without."""
    content, found, plan = begun
    judge = range_search.Objective(content, photos[:16])
    candidates = range_search.islands(content, plan)
    some = {name: candidates[name] for name in ("block2a", "block2b", "top")}
    start = judge(_make(content, found, plan))[0]

    def make(trial):
        return _make(content, found, trial)

    ranked = range_search.ranked_islands(plan, some, make, judge, seconds=30)
    assert {island.name for island in ranked} == set(some)
    assert all(0 < island.kl < start for island in ranked)
    chosen_plan, chosen = range_search.fewest_islands(
        plan, ranked, make, lambda made: judge(made)[0] < 0.95 * start
    )
    made = make(chosen_plan)
    floats = {op.output for op in tflite.read_ops(made) if op.dtype == "FLOAT32"}
    assert chosen
    for island in chosen:
        assert set(island.outputs) <= floats
        assert f"island: {island.name}" in str(chosen_plan)
    assert judge(made)[0] < 0.95 * start
    assert litert.is_fully_accelerated(made)


def test_a_latency_is_of_one_image_in_milliseconds(float_content):
    [alone] = range_search.latency_ms(float_content, runs=3)
    assert 0.001 < alone < 1000
    first, second = range_search.latency_ms(float_content, float_content, runs=31)
    assert 0.5 < first / second < 2


@pytest.mark.parametrize(
    ("count", "held"),
    [(16, 16), (63, 63), (64, 32), (101, 50), (512, 256), (1024, 512), (2048, 1536)],
)
def test_half_is_held_out_of_enough_and_of_many_more(count, held):
    learn, judged = range_search.held_out(count)
    assert len(judged) == held
    if count < 64:
        assert len(learn) == count
    else:
        assert sorted([*learn, *judged]) == list(range(count))


def test_judges_open_files_of_any_input(begun, photos):
    content, found, plan = begun
    quantized = _make(content, found, plan)
    assert classifier.open_classifier(quantized).step == 0
    strict = tflite.make_plan(tflite.read_ops(content), "int8_strict", calibration_images=16)
    assert range_search.Objective(content, photos[:4])(_make(content, found, strict))[0] < 5


def test_a_file_that_does_not_run_is_infinitely_far(trained, photos):
    divergence, top = range_search.Objective(trained, photos[:4]).look(trained[:-200])
    assert divergence == float("inf")
    assert (top == -1).all()
