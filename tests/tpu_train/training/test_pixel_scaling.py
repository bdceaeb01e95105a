import sys
import types

import keras
import numpy as np
import pytest

from tpu_train.training.pixel_scaling import AROUND_0, scaling_of

PIXELS = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3)).astype(np.float32)
NETWORKS = (  # one for each module of keras.applications
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2"),
    *("InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50"),
    *("ResNet50V2", "VGG16", "VGG19", "Xception"),
)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layer_computes_what_preprocess_input_computes(name):
    function = getattr(keras.applications, name)
    expected = sys.modules[function.__module__].preprocess_input(PIXELS.copy())
    scaling = scaling_of(function)
    layer = scaling.layer()
    outputs = PIXELS if layer is None else np.asarray(layer(PIXELS))
    outputs = outputs[..., ::-1] if scaling.reversed else outputs
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_a_function_elsewhere_gets_pixels_around_0():
    assert scaling_of(lambda: None) == AROUND_0


def test_a_preprocessing_that_mixes_channels_is_an_error(monkeypatch):
    module = types.ModuleType("mixing")
    module.preprocess_input = lambda pixels: pixels.mean(-1, keepdims=True) + 0 * pixels
    exec("def network(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "mixing", module)
    with pytest.raises(ValueError, match=r"mixing.preprocess_input does more than to scale"):
        scaling_of(module.network)
