import dataclasses
import math

import numpy as np
import pytest

import tflite
from keras_effnet.litert import runner
from tflite.flatbuffer.graph import Graph, swishes
from tflite.presets import find_preset
from tflite.quantization import equalization, pipeline
from tflite.quantization.calibration import CalibrationImages
from tflite.quantization.options import ConversionOptions
from tflite.quantization.range_estimation import ESTIMATORS
from tflite.quantization.state import State
from tflite.quantization.steps import STEPS, Candidate, Context, Step, make_context, swish_stages

_INT8 = find_preset("int8")


def _options(**options):
    return ConversionOptions(**{"search_seconds": 0, **options})


# Which steps are kept -------------------------------------------------------------------------


def _context(**options):
    return Context(_INT8, b"", np.zeros(0), None, _options(**options))


def _step(name, kl, **fields):
    """A step that appends its name to the model and always reaches the same divergence."""

    def propose(state, context, tensors=()):
        model = b" ".join([state.float32_model, name.encode(), *(t.encode() for t in tensors)])
        return Candidate(dataclasses.replace(state, float32_model=model), (kl, 0.5))

    return Step(name, f"what {name} does", propose, **fields)


@pytest.mark.parametrize(
    ("kl", "best", "threshold", "kept"),
    [
        (0.98, 1.0, 0.99, True),
        (0.99, 1.0, 0.99, False),
        (0.95, 1.0, 0.9, False),
        (5.0, math.inf, 0.99, True),
        (math.inf, math.inf, 0.99, False),
        (math.inf, math.inf, None, True),
        (2.0, 1.0, None, True),
    ],
)
def test_step_is_kept_below_its_share_of_the_best(kl, best, threshold, kept):
    assert pipeline.is_kept(kl, best, threshold) is kept


def test_rejected_steps_leave_the_state_unchanged():
    steps = [
        _step("first", 1.0, threshold=None),
        _step("worse", 1.5),
        _step("better", 0.5),
        _step("hardly", 0.4999),
        _step("broken", math.inf),
        _step("last", 0.3),
    ]
    state, rows = pipeline.run_steps(steps, State(b"model"), _context())
    assert state.float32_model == b"model first better last"
    assert state.kl_divergence == 0.3
    assert [row.name for row in rows if row.kept] == ["first", "better", "last"]
    assert [row.name for row in rows] == [step.name for step in steps]
    assert rows[1].description == "what worse does"


def test_steps_run_only_where_they_are_enabled_or_follow():
    steps = [
        _step("first", 1.0, threshold=None),
        _step("off", 0.1, enabled=lambda context: context.options.search_seconds > 0),
        _step("rejected", 2.0),
        _step("after rejected", 0.1, after="rejected"),
        _step("after first", 0.5, after="first"),
    ]
    _, rows = pipeline.run_steps(steps, State(b""), _context())
    assert [row.name for row in rows] == ["first", "rejected", "after first"]


def test_rejected_trials_are_not_reported():
    def propose(state, context, tensors):
        kl = {"a": 0.5, "b": 0.7, "c": 0.2}[tensors[0]]
        return Candidate(state, (kl, 1.0))

    steps = [
        _step("first", 1.0, threshold=None),
        Step("trial", "", propose, trials=lambda state: {f"stage {t}": (t,) for t in "abc"}),
    ]
    state, rows = pipeline.run_steps(steps, State(b""), _context(search_seconds=60))
    assert [row.name for row in rows] == ["first", "trial, stage a", "trial, stage c"]
    assert state.kl_divergence == 0.2


def test_trials_end_at_the_time_limit():
    steps = [_step("trial", 0.1, trials=lambda state: {"x": (), "y": ()})]
    _, rows = pipeline.run_steps(steps, State(b""), _context(search_seconds=-1))
    assert rows == ()


def test_names_and_descriptions_have_the_details_of_the_candidate():
    def propose(state, context):
        return Candidate(state, (1.0, 1.0), ": mse", "least error")

    _, (row,) = pipeline.run_steps([Step("ranges", "best", propose)], State(b""), _context())
    assert (row.name, row.description) == ("ranges: mse", "best (least error)")


def test_step_that_does_not_run_has_no_divergence_in_json():
    row = pipeline.QuantizationStep("x", "what", math.inf, 0.0, 1.0, False)
    assert row.as_dict() == {
        "name": "x", "description": "what", "kl_divergence": None, "agreement": 0.0,
        "seconds": 1.0, "kept": False, "runs": False,
    }  # fmt: skip
    assert dataclasses.replace(row, kl_divergence=0.5).as_dict()["runs"] is True


# On a network ---------------------------------------------------------------------------------


def _rescaled(model):
    """The same function, with the channels of every group apart by factors around e^1.5."""
    graph = Graph(model)
    names = [graph.name(swish.z) for swish in swishes(graph)]
    rng = np.random.default_rng(1)
    for group in equalization.groups(graph, through_swish=names[-2:]):
        channels = graph.shape(group.tensors[0])[-1]
        equalization.apply_scale(graph, group, np.exp(rng.normal(0, 1.5, channels)))
    return graph.content()


def _run_steps(model, photos, steps, options=None, log=lambda line: None):
    calibration = CalibrationImages.ordered(photos)
    context = make_context(model, _INT8, calibration, options or _options(), log)
    state = State(model, exact_model=model, uncompensated_model=model)
    return *pipeline.run_steps(steps, state, context), context


@pytest.fixture(scope="module")
def result():
    """result(model, photos) -> (state, steps, context, log lines) without searches, run once."""
    results = {}

    def once(model, photos):
        if model not in results:
            lines = []
            results[model] = (*_run_steps(model, photos, STEPS, log=lines.append), lines)
        return results[model]

    return once


def test_pipeline_is_never_worse_than_min_max(trained_v1, photos, result):
    state, rows, context, _ = result(trained_v1, photos)
    assert rows[0].name == "min-max ranges"
    assert state.kl_divergence <= rows[0].kl_divergence
    assert context.evaluate(state)[0] == pytest.approx(state.kl_divergence)


def test_steps_are_kept_exactly_if_they_help(trained_v1, photos, result):
    state, rows, *_ = result(trained_v1, photos)
    best = math.inf
    for row in rows:
        assert row.kept == (row.kl_divergence < 0.99 * best)
        if row.kept:
            best = row.kl_divergence
    assert best == state.kl_divergence
    assert all(0 <= row.agreement <= 1 for row in rows)
    assert all(row.seconds >= 0 for row in rows)


def test_every_step_is_logged_and_listed(trained_v1, photos, result):
    _, rows, _, lines = result(trained_v1, photos)
    names = [row.name for row in rows]
    assert names[0] == "min-max ranges"
    assert names[1].startswith("ranges: ")
    assert names[1].removeprefix("ranges: ") in ESTIMATORS
    assert names[2] == "equalization"
    assert names[-2:] == ["weight rounding", "bias correction"]
    for name in names:
        assert f"Quantization step: {name.split(':')[0]}" in lines


def test_exact_model_keeps_the_scores(trained_v1, photos, result):
    state, rows, *_ = result(trained_v1, photos)
    exact, changed, wanted = (
        runner.scores(model, photos[:8])
        for model in (state.exact_model, state.float32_model, trained_v1)
    )
    np.testing.assert_allclose(exact, wanted, atol=1e-4)
    assert any(row.kept for row in rows if row.name in ("weight rounding", "bias correction"))
    assert 1e-4 < np.abs(changed - wanted).max() < 0.1


def test_rescaled_channels_are_recovered(trained_v1, photos):
    state, rows, _ = _run_steps(_rescaled(trained_v1), photos, STEPS)
    assert rows[0].kl_divergence > 0.3
    assert state.kl_divergence < 0.1 * rows[0].kl_divergence
    names = [row.name for row in rows]
    index = names.index("equalization")
    assert rows[index].kept
    assert names[index + 1].startswith("ranges, equalized: ")
    assert names[index + 1] != f"ranges, equalized: {names[1].removeprefix('ranges: ')}"


@pytest.mark.parametrize("threshold", [1e9, 0.0], ids=["kept", "rejected"])
def test_multiplication_is_inserted_only_if_kept(trained_v1, photos, threshold):
    through_swish = next(step for step in STEPS if step.trials)
    stem = dataclasses.replace(
        through_swish,
        threshold=threshold,
        trials=lambda state: {"stem": swish_stages(state)["stem"]},
    )
    state, rows, context = _run_steps(
        trained_v1, photos, (STEPS[0], stem), _options(search_seconds=60)
    )
    more = len(tflite.read_ops(state.float32_model)) - len(tflite.read_ops(trained_v1))
    assert more == [row.name for row in rows].count("equalization, stem") == bool(threshold)
    scores, wanted = (
        runner.scores(model, photos[:4]) for model in (state.float32_model, trained_v1)
    )
    np.testing.assert_allclose(scores, wanted, atol=1e-4)
    assert context.evaluate(state)[0] == pytest.approx(state.kl_divergence)


def test_harmful_step_is_rejected(trained_v1, photos):
    def harm(state, context):
        graph = Graph(state.float32_model)
        op = next(op for op in graph.operations if op.name == "CONV_2D")
        graph.set_constant(op.inputs[2], graph.constant(op.inputs[2]) + 3)
        return Candidate(dataclasses.replace(state, float32_model=graph.content()))

    steps = (STEPS[0], Step("harm", "wrong biases", harm))
    state, rows, context = _run_steps(trained_v1, photos[:24], steps)
    assert not rows[-1].kept
    assert rows[-1].kl_divergence > state.kl_divergence
    assert state.float32_model == trained_v1
    assert context.evaluate(state)[0] == pytest.approx(state.kl_divergence)


def test_range_search_is_the_last_step(trained_lite, photos):
    steps = (STEPS[0], STEPS[-1])
    state, rows, _ = _run_steps(trained_lite, photos, steps, _options(search_seconds=1))
    assert rows[-1].name == "range search"
    assert "tensors tried" in rows[-1].description
    assert state.kl_divergence <= rows[0].kl_divergence


def test_steps_are_evaluated_on_held_out_images(trained_lite, photos):
    calibration = CalibrationImages.ordered(np.concatenate([photos, 255 - photos]))
    context = make_context(trained_lite, _INT8, calibration, _options())
    assert (len(context.images), len(context.objective.images)) == (48, 48)
    learned = {image.tobytes() for image in context.images}
    assert not learned & {image.tobytes() for image in context.objective.images}


def test_budget_is_measured_on_labelled_held_out_images(trained_lite, photos):
    images, labels = np.concatenate([photos, 255 - photos]), np.arange(96) % 10
    calibration = CalibrationImages.ordered(images, labels)
    context = make_context(trained_lite, _INT8, calibration, _options())
    objective = pipeline.budget_objective(trained_lite, calibration)
    assert len(objective.images) == 48
    learned = {image.tobytes() for image in context.images}
    assert not learned & {image.tobytes() for image in objective.images}
    by_image = {image.tobytes(): label for image, label in zip(images, labels)}
    assert [by_image[image.tobytes()] for image in objective.images] == list(objective.labels)
