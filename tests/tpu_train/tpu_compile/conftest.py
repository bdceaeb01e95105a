"""A topology of the TPU compiler, and results that nothing had to compile."""

import dataclasses

import pytest
import tensorflow as tf

from tpu_train.tpu_compile.compiled_step import CompiledStep
from tpu_train.tpu_compile.lowering import build_training
from tpu_train.tpu_compile.topology import Topology, open_topology


@pytest.fixture
def v5e():
    """A topology without devices, with round numbers."""
    return Topology("v5e:2x4", (), 8, 16 * 2**30, 200e12, 800e9, "0.0.42.1")


@pytest.fixture
def compiled():
    """compiled(batch, hbm_bytes, ...): a :class:`CompiledStep` with these numbers."""

    def step(batch, hbm_bytes=0, *, fits=True, flops=0.0, moved_bytes=0):
        error = "" if fits else "RESOURCE_EXHAUSTED"
        return CompiledStep(batch, fits, hbm_bytes, 0, 0, flops, moved_bytes, 0.0, 0, error)

    return step


@pytest.fixture
def newest_stack():
    if tf.__version__.startswith("2.15."):
        pytest.skip("TensorFlow 2.15 does not lower to StableHLO")


@pytest.fixture(scope="session")
def topology():
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")
    return open_topology("v5e:2x2")


@pytest.fixture
def training(newest_stack, tiny_recipe):
    """TINY's training with every feature on, as one of four cores sees it."""
    recipe = dataclasses.replace(tiny_recipe, precision="bfloat16", optimizer="rmsprop")
    return build_training(recipe, 4, classes=4, examples=24)
