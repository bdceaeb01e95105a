import numpy as np
import pytest

import tflite
from tflite import graph


def test_ranges_are_the_extremes_of_every_activation(float_content, images):
    ranges = tflite.calibrate(float_content, images)
    assert ranges.keys() == graph.activations(float_content).keys()
    by_op = {op.output: op.name for op in tflite.read_ops(float_content)}
    for name, bounds in ranges.items():
        assert bounds["min"] <= bounds["max"]
        if by_op.get(name) == "LOGISTIC":
            assert 0 <= bounds["min"] <= bounds["max"] <= 1


def test_ranges_are_those_of_the_quantizers_own_calibrator(float_content, images):
    from ai_edge_quantizer import calibrator, quantizer, recipe
    from ai_edge_quantizer.utils import qsv_utils

    from tflite import litert

    with litert._quiet():
        theirs = calibrator.Calibrator(float_content, qsv_update_func=qsv_utils.min_max_update)
        theirs.calibrate(
            {"serving_default": [{"images": i[None].astype(np.float32)} for i in images]},
            quantizer.Quantizer(float_content, recipe.static_wi8_ai8())._recipe_manager,
        )
    ours = tflite.calibrate(float_content, images)
    for name, qsv in theirs.get_model_qsvs().items():
        if name in ours and name != "serving_default_images:0":
            np.testing.assert_allclose(ours[name]["min"], qsv["min"].item(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ours[name]["max"], qsv["max"].item(), rtol=1e-5, atol=1e-6)


def test_the_inputs_range_means_pixels_whatever_the_images(float_content, images):
    ranges = tflite.calibrate(float_content, images // 2)
    assert ranges["serving_default_images:0"] == {"min": 0.0, "max": 255.0}


def test_the_order_of_the_images_does_not_matter(float_content, images):
    assert tflite.calibrate(float_content, images) == tflite.calibrate(float_content, images[::-1])


def test_too_few_images_are_an_error_unless_asked_for(float_content, images):
    with pytest.raises(ValueError, match=r"has 5 images and needs 16"):
        tflite.calibrate(float_content, images[:5])
    tflite.calibrate(float_content, images[:1], min_images=1)


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(np.float32), lambda x: x[:, :16], lambda x: x[..., :1]]
)
def test_images_of_another_kind_are_errors(float_content, images, change):
    with pytest.raises(ValueError, match=r"takes uint8 \(n, 32, 32, 3\)"):
        tflite.calibrate(float_content, change(images))
