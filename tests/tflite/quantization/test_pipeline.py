import dataclasses
import itertools
import time

import numpy as np
import pytest

import tflite
from keras_effnet.litert import runner
from tflite.flatbuffer.graph import Graph, swishes
from tflite.presets import find_preset
from tflite.quantization import equalization, pipeline, step_selection
from tflite.quantization.calibration import CalibrationImages
from tflite.quantization.options import ConversionOptions
from tflite.quantization.range_estimation import ESTIMATORS
from tflite.quantization.state import State
from tflite.quantization.steps import (
    STEPS,
    Step,
    make_contexts,
    refit_context,
    swish_stages,
)

_INT8 = find_preset("int8")


def _options(**options):
    return ConversionOptions(**{"search_evaluations": 0, **options})


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
    """(state, rows, contexts); two folds with 64 photos or more."""
    calibration = CalibrationImages.ordered(photos)
    contexts = make_contexts(model, _INT8, calibration, options or _options(), log)
    state = State(model, exact_model=model, uncompensated_model=model)
    refit = refit_context(contexts, calibration)
    return *step_selection.run_steps(steps, state, contexts, refit), contexts


@pytest.fixture(scope="module")
def result():
    """result(model, photos) -> (state, steps, contexts, log lines) without searches, run once."""
    results = {}

    def once(model, photos):
        if model not in results:
            lines = []
            results[model] = (*_run_steps(model, photos, STEPS, log=lines.append), lines)
        return results[model]

    return once


def test_pipeline_is_never_worse_than_min_max(trained_v1, photos, result):
    state, rows, (context,), _ = result(trained_v1, photos)
    assert rows[0].name == "min-max ranges"
    last = [row for row in rows if row.kept][-1]
    assert last.kl_divergence <= rows[0].kl_divergence
    assert context.errors(state).mean == pytest.approx(last.kl_divergence)


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
    assert all(0 <= row.agreement <= 1 for row in rows)


def test_exact_model_keeps_the_scores(trained_v1, photos, result):
    state, rows, *_ = result(trained_v1, photos)
    exact, changed, wanted = (
        runner.scores(model, photos[:8])
        for model in (state.exact_model, state.float32_model, trained_v1)
    )
    np.testing.assert_allclose(exact, wanted, atol=1e-4)
    compensated = any(
        row.kept for row in rows if row.name in ("weight rounding", "bias correction")
    )
    assert (np.abs(changed - wanted).max() > 1e-4) == compensated
    assert np.abs(changed - wanted).max() < 0.1


def test_rescaled_channels_are_recovered(trained_v1, photos):
    _, rows, _ = _run_steps(_rescaled(trained_v1), photos, STEPS)
    assert rows[0].kl_divergence > 0.3
    assert rows[-1].kl_divergence < 0.1 * rows[0].kl_divergence
    names = [row.name for row in rows]
    index = names.index("equalization")
    assert rows[index].kept
    assert names[index + 1].startswith("ranges, equalized: ")
    assert names[index + 1] != f"ranges, equalized: {names[1].removeprefix('ranges: ')}"


@pytest.mark.parametrize("least", [-1e9, 1e9], ids=["kept", "rejected"])
def test_multiplication_is_inserted_only_if_kept(trained_v1, photos, least):
    through_swish = next(step for step in STEPS if step.cumulative)
    stem = dataclasses.replace(
        through_swish, least_gain=least, choices=lambda state: swish_stages(state)[:1]
    )
    state, rows, _ = _run_steps(
        trained_v1, photos, (STEPS[0], STEPS[1], stem), _options(search_evaluations=60)
    )
    more = len(tflite.read_ops(state.float32_model)) - len(tflite.read_ops(trained_v1))
    assert more == [row.name for row in rows].count("equalization, stem")
    if least > 0:
        assert more == 0
    scores, wanted = (
        runner.scores(model, photos[:4]) for model in (state.float32_model, trained_v1)
    )
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


def test_harmful_step_is_rejected(trained_v1, photos):
    def harm(state, context, _):
        graph = Graph(state.float32_model)
        op = next(op for op in graph.operations if op.name == "CONV_2D")
        graph.set_constant(op.inputs[2], graph.constant(op.inputs[2]) + 3)
        return dataclasses.replace(state, float32_model=graph.content())

    steps = (STEPS[0], Step("harm", "wrong biases", harm))
    state, rows, _ = _run_steps(trained_v1, photos[:24], steps)
    assert not rows[-1].kept
    assert rows[-1].kl_divergence > rows[0].kl_divergence
    assert state.float32_model == trained_v1


def test_clock_does_not_change_the_file(trained_v1, photos, monkeypatch):
    images = np.concatenate([photos[:32], 255 - photos[:32]])
    stem = next(step for step in STEPS if step.cumulative)
    steps = (STEPS[0], stem)
    options = _options(search_evaluations=2)
    files = []
    for seconds in (0.0, 3600.0):
        now = itertools.count()
        for name in ("time", "monotonic", "perf_counter", "thread_time", "process_time"):
            monkeypatch.setattr(time, name, lambda now=now, each=seconds: next(now) * each)
        state, rows, contexts = _run_steps(trained_v1, images, steps, options)
        files.append((state.quantized(contexts[0].plan(state)), rows))
        monkeypatch.undo()
    assert files[0] == files[1]
    assert len(contexts) == 2


def test_steps_are_evaluated_on_images_that_they_did_not_learn_from(trained_lite, photos):
    calibration = CalibrationImages.ordered(np.concatenate([photos, 255 - photos]))
    contexts = make_contexts(trained_lite, _INT8, calibration, _options())
    assert [(len(c.images), len(c.objective.images)) for c in contexts] == [(48, 48)] * 2
    for context in contexts:
        learned = {image.tobytes() for image in context.images}
        assert not learned & {image.tobytes() for image in context.objective.images}
    assert len(refit_context(contexts, calibration).images) == 96


def test_budget_is_measured_on_labelled_held_out_images(trained_lite, photos):
    images, labels = np.concatenate([photos, 255 - photos]), np.arange(96) % 10
    calibration = CalibrationImages.ordered(images, labels)
    contexts = make_contexts(trained_lite, find_preset("int8_mixed"), calibration, _options())
    objective = pipeline.budget_objective(trained_lite, calibration)
    assert len(objective.images) == 48
    learned = {image.tobytes() for image in refit_context(contexts, calibration).images}
    assert not learned & {image.tobytes() for image in objective.images}
    by_image = {image.tobytes(): label for image, label in zip(images, labels)}
    assert [by_image[image.tobytes()] for image in objective.images] == list(objective.labels)
