"""Image operations against the output of the official code (tests/golden/README.md)."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tpu_train.input_pipeline.official_randaugment import (
    ARGUMENTS,
    GOLDEN,
    OURS,
    WRAPS,
    equal,
)
from tpu_train.input_pipeline import image_ops

pytestmark = pytest.mark.every_stack


@pytest.mark.parametrize("key", [k for k in ARGUMENTS if k not in WRAPS])
def test_operations_equal_the_official_ones(key):
    for index, image in enumerate(GOLDEN["images"]):
        assert equal(key, index, OURS[key.split("/")[0]](tf.constant(image), *ARGUMENTS[key]))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.5])
def test_sharpness_sums_exactly(factor):
    """The sum is the same on every processor."""
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])
    expected = image.astype(np.float32)
    for y in range(1, 8):
        for x in range(1, 10):
            window = image[y - 1 : y + 2, x - 1 : x + 2].astype(int)
            smooth = (window * kernel[..., None]).sum((0, 1)) // 13
            expected[y, x] = smooth + np.float32(factor) * (image[y, x] - smooth.astype(np.float32))
    ours = image_ops.sharpness(tf.constant(image), factor)
    np.testing.assert_array_equal(ours, expected.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("side", [(31, 47), (48, 64), (33, 33)])
def test_warps_match_tensorflow(side):
    """Against ImageProjectiveTransformV3, with half-integer coordinates."""
    random = np.random.default_rng(0)
    image = tf.constant(random.integers(0, 256, (*side, 3)).astype(np.uint8))
    angle = 0.7
    for affine, ours in (
        ([1.0, -0.15, 0.0, 0.0, 1.0, 0.0], lambda x: image_ops.shear_x(x, -0.15)),
        ([1.0, 0.5, 0.0, 0.0, 1.0, 0.0], lambda x: image_ops.shear_x(x, 0.5)),
        ([1.0, 0.0, 0.0, -0.25, 1.0, 0.0], lambda x: image_ops.shear_y(x, -0.25)),
        ([1.0, 0.0, 6.5, 0.0, 1.0, 0.0], lambda x: image_ops.translate_x(x, 6.5)),
        ([1.0, 0.0, -6.6666665, 0.0, 1.0, 0.0], lambda x: image_ops.translate_x(x, -6.6666665)),
        ([1.0, 0.0, 0.0, 0.0, 1.0, -500.0], lambda x: image_ops.translate_y(x, -500.0)),
        (
            _rotation(angle, side),
            lambda x: image_ops.rotate(x, angle * 180 / np.pi),
        ),
    ):
        expected = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=tf.constant([[*affine, 0.0, 0.0]], tf.float32),
            output_shape=side,
            fill_value=128.0,
            interpolation="NEAREST",
            fill_mode="CONSTANT",
        )[0]
        np.testing.assert_array_equal(ours(image), expected)


def _rotation(radians, side):
    cos, sin = np.cos(radians), np.sin(radians)
    height, width = side[0] - 1, side[1] - 1
    x, y = (width - (cos * width - sin * height)) / 2, (height - (sin * width + cos * height)) / 2
    return [cos, -sin, x, sin, cos, y]


@pytest.mark.parametrize("key", WRAPS)
def test_solarize_threshold_256_changes_nothing(key):
    image = GOLDEN["images"][0]
    np.testing.assert_array_equal(image_ops.solarize(tf.constant(image), 256), image)
    assert not np.array_equal(GOLDEN[key][0], image)


def test_cutout_fills_a_square_with_gray():
    image = tf.zeros((60, 60, 3), tf.uint8)
    hit = image_ops.cutout(image, 10, tf.constant([0.5, 0.5])).numpy() == 128
    assert hit[20:40, 20:40].all()  # 2 * half from the center - half, as in the official code
    assert hit.sum() == 20 * 20 * 3
    at_the_corner = image_ops.cutout(image, 10, tf.constant([0.0, 0.999])).numpy() == 128
    assert at_the_corner.sum() == 10 * 11 * 3
    assert at_the_corner[:10, 49:].all()
