import dataclasses
import re
import types

import pytest

from tpu_train.recipes.phases import make_phases
from tpu_train.tpu_compile import plan
from tpu_train.tpu_compile.plan import PhasePlan, PlanRequest

GIB = 2**30


def test_the_table_has_a_row_per_phase_and_explains_the_roofline(compiled, v5e):
    step = compiled(512, 4 * GIB, flops=2e12, moved_bytes=80e9)
    text = plan.format_plans(
        [PhasePlan(1, 128, step, 1024, 1152), PhasePlan(2, 300, step, 0, 0)], v5e
    )
    assert re.search(
        r"\n +1 +128 +512 +4\.00 +2\.00 +80\.0 +100\.0 +bytes +0\.0 +1024 \(1152 re", text
    )
    assert "not searched" in text
    assert "It is not a measurement; a\nreal step is slower" in text


def test_a_phase_that_does_not_fit_shows_needed_and_usable_memory(compiled, v5e):
    text = plan.format_plans([PhasePlan(1, 380, compiled(512, 20 * GIB, fits=False), 0, 2)], v5e)
    assert re.search(r"512 +20\.00 > 16\.00 +- .* 0 \(2 refused\)", text)


@pytest.fixture
def recipe(tiny_recipe):
    return dataclasses.replace(tiny_recipe, batch_size=32)


def test_an_unknown_phase_number_is_an_error(recipe, v5e):
    with pytest.raises(ValueError, match="phase 3: tiny has phases 1 to 2"):
        next(plan.plan_phases(PlanRequest(recipe, 4, 24, phases=(3,)), v5e))


@pytest.mark.parametrize("search", [False, True])
def test_only_the_requested_phases_are_compiled(recipe, compiled, v5e, monkeypatch, search):
    training = types.SimpleNamespace(phases=make_phases(recipe, 24))
    monkeypatch.setattr(plan, "build_training", lambda *args, **kwargs: training)
    monkeypatch.setattr(plan, "lower_step", lambda training, phase, batch: batch)
    monkeypatch.setattr(
        plan, "compile_step", lambda step, *args: compiled(step, step * GIB, fits=step <= 16)
    )
    log = []
    request = PlanRequest(recipe, 4, 24, phases=(2,), search=search)
    (phase,) = plan.plan_phases(request, v5e, log=log.append)
    assert (phase.number, phase.image_size, phase.step.batch) == (2, 40, 4)
    assert (phase.largest, phase.refused) == ((16, 24) if search else (0, 0))
    assert log[:2] == ["building tiny", "phase 2: compiling 40 px, 4 images per core"]
