import dataclasses
import importlib.metadata
import platform
import re

import pytest
import tensorflow as tf

from tpu_train.cli import plan as cli
from tpu_train.recipes.table import RECIPES
from tpu_train.tpu_compile import plan
from tpu_train.tpu_compile.plan import Compiled, PhasePlan, Topology

GIB = 2**30
V5E = Topology("v5e:2x4", (), 8, 16 * GIB, 200e12, 800e9, "0.0.42.1")


def compiled(batch, hbm_bytes=0, *, fits=True, flops=0.0, moved_bytes=0):
    error = "" if fits else "no"
    return Compiled(batch, fits, hbm_bytes, 0, 0, flops, moved_bytes, 0.0, 0, error)


@pytest.fixture
def newest_stack():
    if tf.__version__.startswith("2.15."):
        pytest.skip("TensorFlow 2.15 does not speak StableHLO")


@pytest.fixture(scope="module")
def topology():
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")
    return plan.open_topology("v5e:2x2")


@pytest.fixture
def trained(newest_stack, tiny_recipe):
    """TINY with everything on, as four cores train it."""
    recipe = dataclasses.replace(tiny_recipe, precision="bfloat16", optimizer="rmsprop")
    return plan.trainee(recipe, 4, classes=4, examples=24)


# --- arithmetic ---------------------------------------------------------------------------------


def test_the_roofline_is_the_longer_of_computing_and_moving():
    assert plan.roofline_seconds(compiled(8, flops=2e12, moved_bytes=4e9), V5E) == 0.01
    assert plan.roofline_seconds(compiled(8, flops=2e12, moved_bytes=16e9), V5E) == 0.02


@pytest.mark.parametrize(
    ("message", "limit", "wanted"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (8.00T) exceeds available HBM (15.75G).",
            15.75 * GIB,
            8192 * GIB,
        ),
        (
            "Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.",
            15.75 * GIB,
            20.5 * GIB,
        ),
        ("something else", 0, 0),
    ],
)
def test_memory_is_read_from_the_compilers_refusal(message, limit, wanted):
    assert plan.memory_limit(message) == limit
    assert plan.memory_wanted(message) == wanted


def test_bytes_are_those_from_and_to_hbm_with_padding_and_without_what_stays_on_the_chip():
    hlo = """HloModule step
%fused (x: f32[9]) -> f32[9] { ROOT %big = f32[1000000]{0} add(%x, %x) }
ENTRY %main {
  %in = bf16[6,100]{1,0:T(8,128)(2,1)} parameter(0)
  %near = f32[4]{0:T(1024)S(1)} fusion(%in), kind=kLoop, calls=%fused
  %out = f32[4]{0:T(1024)} negate(%near)
  %copy-start = (f32[4]{0:T(1024)S(1)}, f32[4]{0:T(1024)}, u32[]{:S(2)}) copy-start(%out)
  %copy-done = f32[4]{0:T(1024)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[64,8]{1,0}), f32[2,8]{1,0S(1)}, s32[]{:S(2)}) slice-start(%elsewhere)
  ROOT %tuple = (f32[4]{0:T(1024)}) tuple(%out)
}
"""
    read = 8 * 128 * 2
    written = 1024 * 4
    copied = 1024 * 4
    sliced = 2 * 8 * 4
    assert plan.moved_bytes(hlo) == read + written + copied + sliced


@pytest.mark.parametrize("most", [1, 3, 7, 20, 100, 333, 1700, 10_000])
def test_the_largest_batch_is_found_between_what_was_taken_and_what_was_refused(most):
    asked = []

    def compile_at(batch):
        asked.append(batch)
        return compiled(batch, 2**28 + batch * 2**24, fits=batch <= most)

    low, high = plan.largest_batch(compile_at, 2**28 + most * 2**24, known=[compile_at(512)])
    assert low <= most
    assert high > most or high == 0
    assert (high == 0) == (most > 4096)
    assert not high or high - low <= max(8, high // 8)
    assert len(asked) == len(set(asked)) <= 6
    assert low in (0, *asked)


def test_the_search_follows_a_compiler_that_saves_memory_near_its_limit():
    limit = 100 * 2**20

    def compile_at(batch):  # what it says fits to 100; what it takes, to 150
        return compiled(batch, min(batch * 2**20, limit), fits=batch <= 150)

    low, high = plan.largest_batch(compile_at, limit)
    assert low <= 150 < high
    assert high - low <= high // 8


def test_the_search_looks_at_no_other_batches_than_the_phase_can_have():
    asked = []

    def compile_at(batch):
        asked.append(batch)
        return compiled(batch, batch * 2**20, fits=batch <= 100)

    assert plan.largest_batch(compile_at, 100 * 2**20, range(32, 512, 32)) == (96, 128)
    assert all(batch % 32 == 0 for batch in asked)


# --- what comes before anything slow ------------------------------------------------------------


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e:2*4", "", "v2:2x2"])
def test_an_unknown_topology_is_told_the_known_ones(name):
    with pytest.raises(ValueError, match=r"v5e:1x1, 2x2, 2x4.*v6e:") as error:
        plan.open_topology(name)
    assert repr(name) in str(error.value)


def test_another_machine_is_told_where_the_compiler_runs(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(ValueError, match=r"Linux x86-64 alone, and this is \w+ arm64"):
        plan.open_topology("v5e:2x4")


def test_a_missing_compiler_is_told_with_the_line_that_installs_it(monkeypatch, capsys):
    def version(package):
        if package == "libtpu":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(plan.sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert cli.main(["--recipe=digits"]) == 2
    err = capsys.readouterr().err
    assert 'libtpu is not installed, and compiles the plan: pip install "keras_effnet[plan]"' in err
    assert err.count("\n") == 1


def test_a_batch_that_does_not_divide_over_the_cores_is_refused_with_those_that_do(tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, batch_size=100)
    with pytest.raises(ValueError, match=r"phase 1: batch_size 100 .* 8 replicas.*try 96 or 112"):
        plan.trainee(recipe, 8, classes=4, examples=24)


def test_a_shape_that_is_not_layed_out_in_chips_is_refused_with_others(topology):
    with pytest.raises(ValueError, match=r"'v5e:3x5' cannot be: .*; e\.g\. v5e:1x1, 2x2"):
        plan.open_topology("v5e:3x5")


# --- the step that is compiled ------------------------------------------------------------------


def test_one_cores_step_sums_over_all_cores_and_changes_its_variables_in_place(trained):
    text, reduced_bytes = plan.lower(trained, trained.phases[0], 2)
    groups = set(re.findall(r"replica_groups = dense<(\[\[.*?\]\])>", text))
    assert groups == {"[[0, 1, 2, 3]]"}
    gradients = sum(v.shape.num_elements() for v in trained.state.trainable) * 4
    assert gradients < reduced_bytes < 2 * gradients
    assert text.count("may_alias") == len(trained.state.variables)
    assert "tensor<2x32x32x3xui8>" in text
    assert "loc(" not in text
    assert "mhlo.copy" not in text
    assert "channel_handle" not in text


def _lower(replica_step):
    spec = {"image": tf.TensorSpec([4, 8], tf.float32)}
    return plan._lowered(replica_step, plan._OneOfMany(2), spec)


def test_a_step_that_calls_the_host_is_refused_by_the_operations_name(newest_stack):
    def step(batch, step):
        return tf.py_function(lambda x: x.numpy().sum(), [batch["image"]], tf.float32)

    with pytest.raises(
        ValueError, match="cannot run on a TPU: there is no operation 'EagerPyFunc'"
    ):
        _lower(step)


def test_a_step_with_a_dynamic_shape_is_refused_by_the_operations_name(newest_stack):
    def step(batch, step):
        return tf.reduce_sum(tf.boolean_mask(batch["image"], batch["image"] > 0, name="brightest"))

    with pytest.raises(ValueError, match=r"dynamic shape, which a TPU cannot run: brightest/\w+"):
        _lower(step)


def test_a_step_may_only_sum_over_the_cores(newest_stack):
    def step(batch, step):
        return tf.distribute.get_replica_context().all_reduce("MEAN", batch["image"])

    with pytest.raises(ValueError, match="all_reduce 'MEAN'"):
        _lower(step)


# --- the compiler -------------------------------------------------------------------------------


def test_a_topology_says_what_a_core_has(topology):
    assert topology.cores == 4
    assert topology.hbm_bytes == 15.75 * GIB
    assert topology.flops == 197e12
    one = plan.open_topology("v5e:1x1")
    assert one.cores == 1
    two_cores_a_chip = plan.open_topology("v4:2x2x1")
    assert two_cores_a_chip.cores == 8
    assert two_cores_a_chip.flops == 275e12 / 2


def test_a_call_out_of_the_program_is_refused_by_its_name(topology):
    four = "tensor<4xf32>"
    text = f"""func.func @main(%a: {four}) -> {four} {{
      %0 = stablehlo.custom_call @ask_the_host(%a) : ({four}) -> {four}
      return %0 : {four}
    }}"""
    with pytest.raises(ValueError, match=r"The TPU compiler refuses the step: .*ask_the_host"):
        plan.compile_step(text, 0, topology, 8)


@pytest.mark.slow
def test_the_tpu_compiler_takes_every_phase_of_a_training(topology, trained, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    steps = []
    for phase in trained.phases:
        lowered = plan.lower(trained, phase, 2)
        steps.append(plan.compile_step(*lowered, topology, 2, cache))
    for step in steps:
        assert step.fits
        weights = sum(v.shape.num_elements() for v in trained.state.variables) * 4
        assert weights < step.argument_bytes < step.hbm_bytes < topology.hbm_bytes
        assert step.flops > 0
        assert weights < step.moved_bytes < step.accessed_bytes
    assert steps[1].flops > steps[0].flops

    # Lowered again, the step is the same text, and so is found.
    monkeypatch.setattr(plan, "_compile", lambda *a: pytest.fail("it was compiled before"))
    again = plan.compile_step(*plan.lower(trained, trained.phases[1], 2), topology, 2, cache)
    assert again == steps[1]


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch):
    """The command with plans that nobody compiled."""
    made = []
    monkeypatch.setattr(plan, "open_topology", lambda name: V5E)
    monkeypatch.setattr(plan, "plan", lambda *a, **k: iter(made))
    return made


def test_the_command_prints_each_phase_and_says_that_the_time_is_a_roofline(plans, capsys):
    step = compiled(512, 4 * GIB, flops=2e12, moved_bytes=80e9)
    plans += [PhasePlan(1, 128, step, 1024, 1152), PhasePlan(2, 300, step, 0, 0)]
    assert cli.main(["--recipe=digits"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"\n +1 +128 +512 +4\.00 +2\.00 +80\.0 +100\.0 +bytes +0\.0 +1024 \(1152 re", out
    )
    assert "not searched" in out
    assert "bandwidth); no measurement: a real step is slower" in out


def test_a_phase_that_does_not_fit_is_status_1(plans, capsys):
    plans.append(PhasePlan(1, 380, compiled(512, 20 * GIB, fits=False), 0, 2))
    assert cli.main(["--recipe=digits"]) == 1
    assert re.search(r"512 +20\.00 > 16\.00 +- .* 0 \(2 refused\)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topolgy=v5e:2x2"], "Did you mean '--topology'"),
        (["--phase=first"], "--phase=first: give numbers of phases"),
        (["v5e:2x2"], "'v5e:2x2' is not a flag"),
        (["--recipe=photo"], "photo"),
        (["--topology=v9:2x2"], "there are v3:2x2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_flags_change_single_numbers_of_the_recipe(plans, monkeypatch):
    asked = []
    monkeypatch.setattr(plan, "plan", lambda *a, **k: asked.append((a, k)) or iter(()))
    assert cli.main(["--recipe=digits", "--batch_size=512", "--phase=1,3", "--nosearch"]) == 0
    ((recipe, topology), settings) = asked[0]
    assert recipe == dataclasses.replace(RECIPES["digits"], batch_size=512)
    assert topology == V5E
    assert settings["numbers"] == [1, 3]
    assert settings["search"] is False
