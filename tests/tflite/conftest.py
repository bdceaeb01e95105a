"""Converted files of the TINY variant, made once."""

import functools
import os
import pathlib

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason='needs pip install "keras_effnet[tflite]"')
pytest.importorskip("ai_edge_quantizer", reason='needs pip install "keras_effnet[tflite]"')

import keras_effnet
import tflite

_SHARED = pathlib.Path(__file__).parents[2].parent / "shared"


@functools.cache
def _model(variant, **options):
    import keras

    keras.utils.set_random_seed(0)
    model = keras_effnet.create_model(
        variant, **{"classes": 10, "input_shape": (32, 32, 3), **options}
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:  # as after training: random statistics, scores that differ
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [np.abs(rng.normal(1, 0.2, w.shape)).astype(np.float32) for w in layer.weights]
            )
    return model


@functools.cache
def _float(variant, **options):
    return tflite.float_tflite(_model(variant, **options))


@functools.cache
def _images(count):
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@functools.cache
def _int8(variant, **options):
    content = _float(variant, **options)
    plan = tflite.plan_int8(tflite.read_ops(content), calibration_images=16)
    return tflite.quantize(content, tflite.calibrate(content, _images(16)), plan)


@pytest.fixture
def images():
    """16 random images of the tiny model's size."""
    return _images(16)


@pytest.fixture
def build():
    """Builds a Keras model of a variant with trained-looking weights; once for the same options."""
    return _model


@pytest.fixture
def model(tiny):
    """The tiny Keras model with a softmax over ten classes."""
    return _model(tiny)


@pytest.fixture
def float_content(tiny):
    """Its float32 .tflite."""
    return _float(tiny)


@pytest.fixture
def int8_content(tiny):
    """Its int8 .tflite."""
    return _int8(tiny)


@pytest.fixture
def logits_content(tiny):
    """The float32 .tflite of the same network without the softmax."""
    return _float(tiny, classifier_activation=None)


@pytest.fixture
def shared():
    """A folder with trained networks and real data; a test without it is skipped."""
    folder = pathlib.Path(os.environ.get("KERAS_EFFNET_SHARED", _SHARED))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; KERAS_EFFNET_SHARED names the folder of shared data")
    return folder
