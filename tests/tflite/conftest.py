"""Converted files of the TINY variant; each is converted once."""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason='needs pip install "keras_effnet[tflite]"')
pytest.importorskip("ai_edge_quantizer", reason='needs pip install "keras_effnet[tflite]"')

import keras_effnet
import tflite
from keras_effnet.image_preprocessing import resize
from keras_effnet.litert import runner
from keras_effnet.variants import LITE, V1, Normalization, Stage
from tflite.flatbuffer.graph import LINEAR, Graph


@functools.cache
def _model(variant, **options):
    import keras

    keras.utils.set_random_seed(0)
    model = keras_effnet.create_model(
        variant, **{"classes": 10, "input_shape": (32, 32, 3), **options}
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:  # as after training: statistics are not 0 and 1
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [np.abs(rng.normal(1, 0.2, w.shape)).astype(np.float32) for w in layer.weights]
            )
    return model


@functools.cache
def _float(variant, **options):
    return tflite.export_float32(_model(variant, **options))


@functools.cache
def _images(count):
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@functools.cache
def _int8(variant, **options):
    content = _float(variant, **options)
    plan = tflite.make_plan(tflite.read_ops(content), "int8", calibration_images=16)
    return tflite.quantize(content, tflite.calibrate(content, _images(16)), plan)


def _like_v1(tiny):
    """TINY in the style of EfficientNet V1: a depthwise first stage with squeeze-excite, torch's
    mean and std.
    """
    return dataclasses.replace(
        tiny,
        name="tiny-v1",
        family=V1,
        stages=(Stage("mbconv", 3, 1, 1, 8, 1, 0.25), *tiny.stages[1:]),
        normalization=Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    )


def _lite(tiny):
    """TINY with relu6 and no squeeze-excite."""
    stages = tuple(dataclasses.replace(stage, se_ratio=0.0) for stage in tiny.stages)
    return dataclasses.replace(tiny, name="lite", family=LITE, stages=stages)


_KINDS = {"v1": _like_v1, "v2": lambda tiny: tiny, "lite": _lite}


@functools.cache
def _photos(count, size=32):
    """Different images with shapes and colors. (Random pixels would all have the same means.)"""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = (resize(coarse, size, size) - 128.0) * rng.uniform(0.3, 1) + 128
        rows.append(np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8))
    return np.stack(rows)


@functools.cache
def _trained(variant, size=32):
    """The float .tflite with biases and a normalized last layer: predictions differ by photo."""
    network = Graph(_float(variant, input_shape=(size, size, 3)))
    rng = np.random.default_rng(5)
    for op in (op for op in network.operations if op.name in LINEAR):
        bias = rng.normal(0, 0.3, network.shape(op.output)[-1]).astype(np.float32)
        if op.inputs[2] < 0:
            op.raw.inputs = [*op.inputs[:2], network.add_constant("bias", bias)]
        else:
            network.set_constant(op.inputs[2], bias)
    last = next(op for op in reversed(network.operations) if op.name in LINEAR)
    logits = [
        values[last.output][0]
        for values in runner.run(network.content(), _photos(48, size), [last.output])
    ]
    mean = np.mean(logits, axis=0)
    factor = 1 / np.std(logits - mean)
    network.set_constant(last.inputs[1], network.constant(last.inputs[1]) * factor)
    network.set_constant(last.inputs[2], (network.constant(last.inputs[2]) - mean) * factor)
    return network.content()


@pytest.fixture
def photos():
    """48 images of the tiny model's size with shapes and colors."""
    return _photos(48)


@pytest.fixture(params=["v1", "v2"])
def trained(request, tiny):
    """Float .tflite of V1 and V2 networks with squeeze-excite, residual blocks, biases and input
    normalization; their predictions differ from photo to photo.
    """
    return _trained(_KINDS[request.param](tiny))


@pytest.fixture
def trained_v1(tiny):
    """The V1 network only: most code does not depend on the generation."""
    return _trained(_like_v1(tiny))


@pytest.fixture
def trained_lite(tiny):
    """The same in Lite style: ReLU6, no squeeze-excite."""
    return _trained(_lite(tiny))


@pytest.fixture
def trained_odd(tiny):
    """(the V1 network for 33 px, 16 photos of that size)."""
    return _trained(_like_v1(tiny), 33), _photos(16, 33)


@pytest.fixture
def images():
    """16 random images of the tiny model's size."""
    return _images(16)


@pytest.fixture
def build():
    """build(variant, **options) -> a Keras model with random statistics; cached."""
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
def sigmoid_content(logits_content):
    """The float32 .tflite of the same network with sigmoid outputs."""
    graph = Graph(logits_content)
    output = graph.add_tensor("sigmoids", graph.shape(graph.output))
    graph.insert(graph.operations[-1], "LOGISTIC", (graph.output,), output)
    graph.operations[-2:] = reversed(graph.operations[-2:])
    graph._graph.outputs = [output]
    for signature in graph._tree.signatureDefs:
        signature.outputs[0].tensorIndex = output
    return graph.content()
