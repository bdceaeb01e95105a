"""Loose bounds; for measurements see benchmarks/start_up.py and docs/results/start-up.md."""

import importlib.util
import pathlib

import pytest

BENCHMARK = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "start_up.py"


@pytest.mark.slow
def test_importing_the_package_takes_little_longer_than_keras(run_python):
    """Target: 0.1 s where Keras takes 4.6 s; the ratio of processor times depends less on the
    machine.
    """
    script = (
        "import time; import keras; half = time.process_time(); import keras_effnet; "
        "print((time.process_time() - half) / half)"
    )
    assert float(run_python(script, with_package=True).split()[-1]) < 0.1 / 4.6


@pytest.mark.exhaustive
@pytest.mark.tensorflow_only("JAX compiles every initialiser of every shape")
@pytest.mark.parametrize("name", ["efficientnet-b0"])
def test_building_is_as_fast_as_keras_applications(name, keras):
    """Target: not slower; 1.5 allows for a busy machine. Processor time, alternating."""
    spec = importlib.util.spec_from_file_location("start_up", BENCHMARK)
    start_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start_up)
    ours, theirs = start_up.compare(name, rounds=2)
    assert ours[0] < 1.5 * theirs[0]
