"""Fixtures of the network tests: facts, goldens, well-scaled weights, keras.applications models.

Keras is imported only if a test uses it."""

import dataclasses
import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys

# JAX compiles each operation for each shape; the tests need correct numbers, not fast ones.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Compiled operations are kept for other test processes and later runs, until make clean.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(sys.prefix, "jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import numpy as np
import pytest

from keras_effnet.variants import V1, V2, Normalization, Stage, Variant

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")

_IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

# The first stages of the published tables, narrow; keras.applications' builders can build them.
SMALL_V1 = Variant(
    name="small-v1-b",
    family=V1,
    stages=(
        Stage("mbconv", 3, 1, 1, 16, 1, 0.25),
        Stage("mbconv", 3, 2, 6, 24, 1, 0.25),
        Stage("mbconv", 5, 2, 6, 40, 2, 0.25),
    ),
    stem_filters=32,
    width=0.5,
    depth=1.0,
    image_size=64,
    dropout_rate=0.2,
    top1=None,
    normalization=_IMAGENET,
)
SMALL_V2 = dataclasses.replace(
    SMALL_V1,
    name="small-v2-b",
    family=V2,
    stages=(
        Stage("fused", 3, 1, 1, 16, 1, 0.0),
        Stage("fused", 3, 2, 4, 32, 2, 0.0),
        Stage("mbconv", 3, 2, 4, 96, 2, 0.25),
    ),
)


def pytest_runtest_setup(item):
    if item.get_closest_marker("tensorflow_only") and BACKEND != "tensorflow":
        pytest.skip(f"{item.get_closest_marker('tensorflow_only').args[0]} (backend: {BACKEND})")
    if item.get_closest_marker("jax_only") and BACKEND != "jax":
        pytest.skip(f"{item.get_closest_marker('jax_only').args[0]} (backend: {BACKEND})")


def pytest_configure(config):
    config.addinivalue_line("markers", "tensorflow_only(reason): needs Keras on TensorFlow")
    config.addinivalue_line("markers", "jax_only(reason): needs Keras on JAX")


@pytest.fixture
def keras(request):
    """Keras; global settings are restored after the test."""
    keras = importlib.import_module("keras")
    data_format = keras.backend.image_data_format()
    keras.utils.set_random_seed(1)
    yield keras
    keras.mixed_precision.set_global_policy("float32")
    keras.backend.set_image_data_format(data_format)
    if any(map(request.node.get_closest_marker, ("slow", "exhaustive"))):  # a large network
        keras.backend.clear_session()
        gc.collect()


@pytest.fixture(scope="session")
def zoo():
    """{variant: facts} of golden/zoo.json, counted with other code."""
    return json.loads((GOLDEN / "zoo.json").read_text())["variants"]


@pytest.fixture
def run_python(tmp_path):
    """Runs a script in a fresh interpreter outside the repository; returns its standard output."""

    def run(script, *, with_package):
        env = dict(os.environ)
        env.pop("PYTHONPATH", None)
        if with_package:
            env["PYTHONPATH"] = str(ROOT)
        result = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


@pytest.fixture
def images():
    """images(height, width): two images, float32 in [0, 255], the same at every call."""

    def make(height, width=None, count=2):
        rng = np.random.default_rng(7)
        width = width or height
        coarse = rng.uniform(0, 255, (count, height // 8 + 1, width // 8 + 1, 3))
        coarse = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
        bright = np.linspace(0.2, 1, count).reshape(-1, 1, 1, 1)  # their outputs must differ
        return (bright * (coarse + rng.uniform(0, 255, coarse.shape)) / 2).astype("float32")

    return make


@pytest.fixture
def tame():
    """tame(model): random weights with outputs of order one at every depth.

    Batch norm statistics are measured first; otherwise a deep network's outputs would be 1e-5 or
    1e7.
    """
    return _tame


def _tame(model, seed=0):
    rng = np.random.default_rng(seed)

    def normal(shape, fan_in):
        return rng.standard_normal(shape, dtype="float32") * np.float32((2.0 / fan_in) ** 0.5)

    def uniform(shape, low, high):
        return rng.uniform(low, high, shape).astype("float32")

    batch_norms = []
    names = {layer.name for layer in model.layers if layer.name.endswith("_add")}
    for layer in model.layers:
        kind = type(layer).__name__
        shapes = [tuple(w.shape) for w in layer.weights]
        if kind == "BatchNormalization":
            batch_norms.append((layer, layer.momentum))
            layer.momentum = 0.0
        elif kind == "Normalization" and shapes:  # keras.applications' V1: mean, variance, count
            mean, std = np.array(_IMAGENET.mean) / 255, np.array(_IMAGENET.std) / 255
            layer.set_weights([mean, std**2, np.zeros((), "int32")])
            layer.finalize_state()
        elif shapes:
            kernel = shapes[0]
            area = 1 if len(kernel) == 2 else kernel[0] * kernel[1]
            fan_in = area * (1 if kind == "DepthwiseConv2D" else kernel[-2])
            layer.set_weights(
                [normal(kernel, fan_in)] + [uniform(s, -0.1, 0.1) for s in shapes[1:]]
            )
    size = [n or 64 for n in model.input_shape[1:]]
    model(uniform((2, *size), 0, 255), training=True)
    for layer, momentum in batch_norms:
        layer.momentum = momentum
        mean, variance = layer.get_weights()[2:]
        power = variance + mean**2 + 1e-3
        ranges = ((0.8, 1.25), (-0.05, 0.05), (-0.05, 0.05), (0.5, 1.5))
        gamma, beta, mean, variance = (uniform(mean.shape, *r) for r in ranges)
        if layer.name.replace("_project_bn", "_add") in names:
            gamma *= 0.2  # 25 residual blocks in a row add up
        layer.set_weights([gamma, beta, mean * np.sqrt(power), variance * power])


@pytest.fixture
def copy_by_name():
    """copy_by_name(source, target): every weight of the target, found by its layer's name."""

    def copy(source, target):
        for layer in target.layers:
            if layer.weights:
                layer.set_weights(source.get_layer(layer.name).get_weights())

    return copy


@pytest.fixture(params=[SMALL_V1, SMALL_V2], ids=["v1", "v2"])
def small(request):
    """A three-stage variant of V1 or V2."""
    return request.param


@pytest.fixture
def by_applications():
    """by_applications(small variant, input_shape, classes): built by keras.applications' code."""
    return _by_applications


def _by_applications(variant, input_shape, classes=1000, name=None):
    legacy = importlib.import_module("keras").__version__.startswith("2.")
    v1 = variant.family is V1
    module = importlib.import_module(
        "keras.src.applications.efficientnet" + ("" if v1 else "_v2"),
    )
    blocks = []
    in_filters = variant.stem_filters if v1 else 32
    for s in variant.stages:
        shared = {
            "kernel_size": s.kernel_size,
            "expand_ratio": s.expand_ratio,
            "strides": s.stride,
            "se_ratio": s.se_ratio,
        }
        if v1:
            specific = {"repeats": s.repeats, "filters_in": in_filters, "filters_out": s.filters}
            specific["id_skip"] = True
        else:
            specific = {
                "num_repeat": s.repeats,
                "input_filters": in_filters,
                "output_filters": s.filters,
                "conv_type": 1 if s.op == "fused" else 0,
            }
        blocks.append({**shared, **specific})
        in_filters = s.filters
    build = module.EfficientNet if v1 else module.EfficientNetV2
    return build(
        variant.width,
        variant.depth,
        variant.image_size,
        blocks_args=blocks,
        weights=None,
        input_shape=input_shape,
        classes=classes,
        classifier_activation=None,
        **{"model_name" if legacy else "name": name or variant.name},
    )


@pytest.fixture
def write_legacy_h5():
    """write_legacy_h5(model, path): the layout of keras.applications' released files."""

    def write(model, path):
        import h5py

        keras = importlib.import_module("keras")
        if keras.__version__.startswith("2."):
            model.save_weights(str(path), save_format="h5")
            return
        legacy = importlib.import_module("keras.src.legacy.saving.legacy_h5_format")
        with h5py.File(path, "w") as file:
            legacy.save_weights_to_hdf5_group(file, model)

    return write
