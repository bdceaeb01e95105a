import dataclasses
import math
import types

import numpy as np
import pytest

from tflite.presets import find_preset
from tflite.quantization import step_selection
from tflite.quantization.objective import ImageErrors
from tflite.quantization.options import ConversionOptions
from tflite.quantization.state import State
from tflite.quantization.steps import Choice, Context, Step

_INT8 = find_preset("int8")


def _options(**options):
    return ConversionOptions(**{"search_evaluations": 0, **options})


class _Model:
    """Stands for the float model of an objective: no early stop."""

    output_activation = "sigmoid"


class _Context(Context):
    """Errors that a state names itself: its model is a float, the root of every divergence."""

    def errors(self, state):
        root = float(state.float32_model.split()[-1])
        spread = np.linspace(0.9, 1.1, 64)
        return ImageErrors((root * spread) ** 2, np.ones(64, bool), 0.5)


def _contexts(folds=1, lines=None, **options):
    objective = types.SimpleNamespace(model=_Model())
    log = (lambda line: None) if lines is None else lines.append
    return [
        _Context(_INT8, b"", np.zeros(fold), objective, _options(**options), log=log)
        for fold in range(1, folds + 1)
    ]


def _step(name, root, **fields):
    """A step that appends a root error to the model."""

    def propose(state, context, argument):
        text = f"{name} {len(context.images)} {root if argument is None else argument}"
        model = b" ".join(filter(None, [state.float32_model, text.encode()]))
        return dataclasses.replace(state, float32_model=model)

    return Step(name, f"what {name} does", propose, **fields)


_FIRST = _step("first", 1.0, least_gain=None)


def _choices(roots):
    return lambda state: [Choice(root, f": {root}") for root in roots]


def test_rejected_steps_leave_the_state_unchanged():
    steps = [
        _FIRST,
        _step("worse", 1.5),
        _step("better", 0.5),
        _step("equal", 0.5),
        _step("broken", math.inf),
        _step("last", 0.3),
    ]
    state, rows = step_selection.run_steps(steps, State(b""), _contexts())
    assert state.float32_model == b"first 1 1.0 better 1 0.5 last 1 0.3"
    assert [row.name for row in rows if row.kept] == ["first", "better", "last"]
    assert [row.name for row in rows] == [step.name for step in steps]
    assert rows[1].description == "what worse does"
    assert rows[1].gain == pytest.approx(-0.5)
    assert rows[2].evidence.startswith("gain 50.0% +- ")


def test_steps_run_only_where_they_are_enabled_or_follow():
    steps = [
        _FIRST,
        _step("off", 0.1, enabled=lambda context: context.options.search_evaluations > 0),
        _step("rejected", 2.0),
        _step("after rejected", 0.1, after="rejected"),
        _step("after first", 0.5, after="first"),
    ]
    _, rows = step_selection.run_steps(steps, State(b""), _contexts())
    assert [row.name for row in rows] == ["first", "rejected", "after first"]


def test_step_with_nothing_to_change_is_not_reported():
    lines = []
    steps = [_FIRST, _step("idle", 0.1, choices=lambda state: [], cumulative=True)]
    _, rows = step_selection.run_steps(steps, State(b""), _contexts(lines=lines))
    assert [row.name for row in rows] == ["first"]
    assert lines[0] == "Quantization step: first"
    assert not [line for line in lines if "idle" in line]


def test_later_variant_must_beat_the_best_one_before():
    steps = [_FIRST, _step("ranges", None, choices=_choices([0.5, 0.6, 0.4, 0.41]))]
    state, (_, row) = step_selection.run_steps(steps, State(b""), _contexts())
    assert (row.name, row.kept, row.evaluations) == ("ranges: 0.4", True, 4)
    assert state.float32_model == b"first 1 1.0 ranges 1 0.4"


def test_step_ends_when_its_patience_does():
    steps = [_FIRST, _step("strength", None, choices=_choices([1.5, 0.1]), patience=1)]
    _, (_, row) = step_selection.run_steps(steps, State(b""), _contexts())
    assert (row.name, row.kept, row.evaluations) == ("strength: 1.5", False, 1)


def test_cumulative_variants_are_steps_and_rejected_ones_not_reported():
    choices = _choices([0.5, 0.7, 0.2, 0.3, 0.3, 0.1])
    steps = [_FIRST, _step("stage", None, choices=choices, cumulative=True, patience=2)]
    state, rows = step_selection.run_steps(steps, State(b""), _contexts(search_evaluations=60))
    assert [row.name for row in rows] == ["first", "stage: 0.5", "stage: 0.2"]
    assert state.float32_model.endswith(b"stage 1 0.5 stage 1 0.2")


@pytest.mark.parametrize(("evaluations", "kept"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_search_ends_after_its_number_of_evaluations(evaluations, kept):
    choices = _choices([0.8, 0.6, 0.4])
    steps = [_FIRST, _step("stage", None, choices=choices, cumulative=True)]
    _, rows = step_selection.run_steps(
        steps, State(b""), _contexts(2, search_evaluations=evaluations)
    )
    assert len(rows) - 1 == kept


def test_kept_steps_learn_from_all_images_in_the_end():
    steps = [_FIRST, _step("better", None, choices=_choices([0.5])), _step("worse", 2.0)]
    contexts = _contexts(2)
    whole = dataclasses.replace(contexts[0], images=np.zeros(3))
    state, rows = step_selection.run_steps(steps, State(b""), contexts, whole)
    assert state.float32_model == b"first 3 1.0 better 3 0.5"
    assert [row.evaluations for row in rows] == [2, 2, 2]


def test_step_whose_best_gain_is_below_the_noise_is_skipped():
    def removes(share):
        def limit(state, context):
            errors = context.errors(state)
            return dataclasses.replace(errors, divergences=share * errors.divergences)

        return limit

    lines = []
    steps = [_FIRST, _step("weights", 0.1, limit=removes(0.01)),
             _step("biases", 0.1, limit=removes(0.5))]  # fmt: skip
    _, rows = step_selection.run_steps(steps, State(b""), _contexts(lines=lines))
    assert [(row.name, row.kept, bool(row.skipped)) for row in rows] == [
        ("first", True, False), ("weights", False, True), ("biases", True, False)
    ]  # fmt: skip
    assert rows[1].evaluations == 0
    assert any("skipped: its best possible gain, 0.5%, is within the noise of" in x for x in lines)


def _rows_of_a_certain_model(monkeypatch, agreement):
    """The rows of steps for a model with large margins, at a measured agreement."""
    contexts = _contexts()
    contexts[0].objective.model.output_activation = "logits"
    contexts[0].objective.log = np.log(np.tile([0.9, 0.1], (64, 1)))
    errors = _Context.errors
    monkeypatch.setattr(
        _Context,
        "errors",
        lambda context, state: dataclasses.replace(errors(context, state), agreement=agreement),
    )
    steps = [_FIRST, _step("better", 0.01), _step("even better", 0.001)]
    return step_selection.run_steps(steps, State(b""), contexts)[1]


def test_no_step_is_tried_at_the_noise_floor(monkeypatch):
    rows = _rows_of_a_certain_model(monkeypatch, agreement=1.0)
    assert [row.kept for row in rows] == [True, True, False]
    assert "of the predictions are expected to stay the same" in rows[2].skipped


def test_steps_are_tried_while_measured_agreement_is_below_the_floor(monkeypatch):
    rows = _rows_of_a_certain_model(monkeypatch, agreement=0.98)
    assert [row.kept for row in rows] == [True, True, True]


def test_step_that_does_not_run_has_no_divergence_in_json():
    row = step_selection.QuantizationStep("x", "what", math.inf, 0.0, False, -math.inf, 0.0)
    assert row.as_dict() == {
        "name": "x", "description": "what", "kl_divergence": None, "agreement": 0.0,
        "kept": False, "gain": None, "standard_error": None, "evaluations": 1, "skipped": "",
        "runs": False,
    }  # fmt: skip
    assert dataclasses.replace(row, kl_divergence=0.5).as_dict()["runs"] is True
