import pytest

from tpu_train.tpu_compile import compiler
from tpu_train.tpu_compile.compiled_step import compile_step, roofline_seconds
from tpu_train.tpu_compile.lowering import lower_step


def test_roofline_is_the_longer_of_computing_and_moving_bytes(compiled, v5e):
    assert roofline_seconds(compiled(8, flops=2e12, moved_bytes=4e9), v5e) == 0.01
    assert roofline_seconds(compiled(8, flops=2e12, moved_bytes=16e9), v5e) == 0.02


def test_a_step_that_does_not_fit_keeps_the_message_and_the_bytes(v5e, monkeypatch):
    from tpu_train.tpu_compile.lowering import LoweredStep

    message = "RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm."
    monkeypatch.setattr(compiler, "compile_stablehlo", lambda text, devices: message)
    step = compile_step(LoweredStep("module", 8, 100), v5e)
    assert (step.fits, step.error, step.hbm_bytes) == (False, message, 20.5 * 2**30)
    assert (step.batch, step.reduced_bytes) == (8, 100)


@pytest.mark.slow
def test_the_tpu_compiler_accepts_every_phase_and_the_cache_is_used(
    topology, training, tmp_path, monkeypatch
):
    cache = str(tmp_path / "cache")
    steps = [
        compile_step(lower_step(training, phase, 2), topology, cache) for phase in training.phases
    ]
    for step in steps:
        assert step.fits
        weights = sum(v.shape.num_elements() for v in training.state.variables) * 4
        assert weights < step.argument_bytes < step.hbm_bytes < topology.hbm_bytes
        assert step.flops > 0
        assert weights < step.moved_bytes < step.accessed_bytes
    assert steps[1].flops > steps[0].flops

    # Lowering the step again gives the same text, so that the cache has it.
    def compile_again(text, devices):
        pytest.fail("the step was compiled twice")

    monkeypatch.setattr(compiler, "compile_stablehlo", compile_again)
    assert compile_step(lower_step(training, training.phases[1], 2), topology, cache) == steps[1]
