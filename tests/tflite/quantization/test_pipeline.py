import numpy as np
import pytest

import tflite
from tflite import litert
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import (
    bias_correction,
    equalization,
    pipeline,
    range_estimation,
    range_search,
    weight_rounding,
)
from tflite.quantization.calibration import in_order


def _plan_of(content, rule):
    return tflite.make_plan(
        tflite.read_ops(content),
        "int8",
        calibration_images=64,
        range_rule=range_estimation.RULES[rule],
    )


def _apply(content, photos, **options):
    options = {"seconds": 0, **options}
    return pipeline.apply(content, photos[in_order(photos)], _plan_of, tflite.quantize, **options)


@pytest.fixture(scope="module")
def applied():
    """applied(content, photos) -> what remedies.apply gives, made once."""
    made = {}

    def once(content, photos):
        if content not in made:
            lines = []
            made[content] = (*_apply(content, photos, say=lines.append), lines)
        return made[content]

    return once


def _made(state):
    return tflite.quantize(state.content, state.ranges, _plan_of(state.content, state.rule))


def _stressed(content):
    network = Graph(content)
    names = [network.name(swish.z) for swish in swishes(network)]
    rng = np.random.default_rng(1)
    for group in equalization.groups(network, through_swish=names[-2:]):
        channels = network.shape(group.tensors[0])[-1]
        equalization.apply_scale(network, group, np.exp(rng.normal(0, 1.5, channels)))
    return network.content()


def test_remedies_never_leave_it_worse_than_min_max(trained, photos, applied):
    state, judge, _ = applied(trained, photos)
    assert state.rows[0].name == "min-max ranges"
    assert state.kl <= state.rows[0].kl
    assert judge(_made(state))[0] == pytest.approx(state.kl)


def test_what_is_kept_is_better_than_what_was_kept_before(trained, photos, applied):
    state, *_ = applied(trained, photos)
    best = float("inf")
    for row in state.rows:
        assert row.kept == (row.kl < best) or not row.kept
        if row.kept:
            best = row.kl
    assert best == state.kl
    assert 0 <= state.rows[-1].agreement <= 1
    assert all(row.seconds >= 0 for row in state.rows)


def test_every_step_is_said_and_noted(trained, photos, applied):
    state, _, lines = applied(trained, photos)
    names = [row.name for row in state.rows]
    assert names[0] == "min-max ranges"
    assert names[1].startswith("ranges: ")
    assert names[1].removeprefix("ranges: ") in range_estimation.RULES
    assert "equalization" in names
    assert names[-2:] == ["weight rounding", "bias correction"]
    assert [line.split()[0] for line in lines] == [
        "Measuring", "Choosing", "Equalizing", "Rounding", "Correcting"
    ]  # fmt: skip


def test_the_float_network_still_gives_its_answers_but_for_weights_and_biases(
    trained, photos, applied
):
    state, *_ = applied(trained, photos)
    kept = {row.name for row in state.rows if row.kept}
    got, want = (litert.scores(litert.interpreter(c), photos[:8]) for c in (state.content, trained))
    assert np.abs(got - want).max() < (
        0.1 if kept & {"weight rounding", "bias correction"} else 1e-4
    )


def test_a_stressed_network_recovers(trained_v1, photos):
    stressed = _stressed(trained_v1)
    state, _ = _apply(stressed, photos)
    assert state.rows[0].kl > 0.3
    assert state.kl < 0.1 * state.rows[0].kl
    names = [row.name for row in state.rows]
    at = names.index("equalization")
    assert state.rows[at].kept
    assert names[at + 1].startswith("ranges, equalized: ")  # other ranges may be best now
    assert names[at + 1] != f"ranges, equalized: {names[1].removeprefix('ranges: ')}"


@pytest.mark.parametrize("price", [1e9, 0.0], ids=["pays", "does not"])
def test_a_multiplication_is_inserted_only_where_it_pays(trained_v1, photos, monkeypatch, price):
    stages = pipeline._stages
    monkeypatch.setattr(pipeline, "_HELPS_AT_A_PRICE", price)
    monkeypatch.setattr(pipeline, "_stages", lambda network: {"stem": stages(network)["stem"]})
    monkeypatch.setattr(range_search, "search_ranges", lambda _, found, *__, **___: (found, 0))
    for module, name in ((weight_rounding, "round_weights"), (bias_correction, "correct_biases")):
        monkeypatch.setattr(module, name, lambda content, *_: content)
    state, judge = _apply(trained_v1, photos, seconds=60)
    rows = [row for row in state.rows if row.name == "equalization, stem"]
    more = len(tflite.read_ops(state.content)) - len(tflite.read_ops(trained_v1))
    assert more == len(rows) == (1 if price else 0)
    got, want = (
        litert.scores(litert.interpreter(c), photos[:4]) for c in (state.content, trained_v1)
    )
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert judge(_made(state))[0] == pytest.approx(state.kl)


def test_stages_have_the_swishes_that_have_no_multiplication_yet(trained_v1):
    network = Graph(trained_v1)
    found = pipeline._stages(network)
    assert list(found) == ["stem", "block1", "block2", "top"]
    names = [name for stage in found.values() for name in stage]
    assert names == [network.name(swish.z) for swish in swishes(network)]
    stem = next(g for g in equalization.groups(network, through_swish=found["stem"]) if g.swishes)
    equalization.apply_scale(network, stem, np.full(network.shape(stem.tensors[0])[-1], 2.0))
    assert list(pipeline._stages(network)) == ["block1", "block2", "top"]


def test_a_remedy_that_harms_is_not_kept(trained_v1, photos, monkeypatch):
    def harm(content, *_):
        network = Graph(content)
        op = next(op for op in network.operations if op.name == "CONV_2D")
        network.set_constant(op.inputs[2], network.constant(op.inputs[2]) + 3)
        return network.content()

    monkeypatch.setattr(bias_correction, "correct_biases", harm)
    monkeypatch.setattr(equalization, "equalize", lambda content, *_, **__: content)
    monkeypatch.setattr(weight_rounding, "round_weights", lambda content, *_: content)
    state, judge = _apply(trained_v1, photos)
    assert not state.rows[-1].kept
    assert state.rows[-1].kl > state.kl
    assert state.content == trained_v1
    assert judge(_made(state))[0] == pytest.approx(state.kl)


def test_the_search_for_ranges_is_the_last_step(trained_lite, photos):
    state, judge = _apply(trained_lite, photos, seconds=1)
    assert state.rows[-1].name == "range search"
    assert "noisiest tensors" in state.rows[-1].what
    assert state.kl <= state.rows[0].kl
    assert judge(_made(state))[0] == pytest.approx(state.kl)


def test_it_is_judged_on_images_that_were_not_learned_from(trained_lite, photos):
    """Where there are enough of them."""
    doubled = np.concatenate([photos, 255 - photos])
    _, judge = _apply(trained_lite, doubled)
    learn, held = range_search.held_out(96)
    ordered = doubled[in_order(doubled)]
    np.testing.assert_array_equal(judge.images, ordered[held])
    assert not {i.tobytes() for i in judge.images} & {i.tobytes() for i in ordered[learn]}


def test_the_order_of_the_images_does_not_change_a_byte(trained_lite, photos):
    files = [_made(_apply(trained_lite, part)[0]) for part in (photos[:20], photos[:20][::-1])]
    assert files[0] == files[1]


def test_layers_that_stay_float_make_up_for_nothing(trained_v1, photos):
    """What was added to a bias for the errors of int8 is an error where there are none."""
    state, _ = _apply(trained_v1, photos)
    plain = Graph(state.content)
    biased = [op for op in plain.operations if op.name in LINEAR and op.inputs[2] >= 0]
    for op in biased:
        plain.set_constant(op.inputs[2], plain.constant(op.inputs[2]) + 1)
    state.plain = plain.content()

    plan = _plan_of(state.content, state.rule)
    some = {plain.name(op.output) for op in biased[3:5]}
    found = Graph(state.content_for(plan.with_floats(some, "island")))
    before = Graph(state.content)
    floats = some | {op.output for op in plan.ops if op.precision == "float32"}
    for op, now in zip(before.operations, found.operations):
        if op.name in LINEAR and op.inputs[2] >= 0:
            change = found.constant(now.inputs[2]) - before.constant(op.inputs[2])
            assert (np.abs(change) > 0.5).all() == (before.name(op.output) in floats)
            assert np.ptp(change) < 1e-5
