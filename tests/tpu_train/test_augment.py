"""Every operation against the official code's output (see tests/golden/README.md)."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tpu_train import augment
from tpu_train.augment import OPERATIONS, randaugment

GOLDEN_DIR = pathlib.Path(__file__).parent.parent / "golden"
GOLDEN = np.load(GOLDEN_DIR / "randaugment.npz")
ARGUMENTS = json.loads((GOLDEN_DIR / "randaugment_args.json").read_text())
OURS = {
    "AutoContrast": augment.autocontrast,
    "Equalize": augment.equalize,
    "Invert": lambda image: 255 - image,
    "Rotate": augment.rotate,
    "Posterize": lambda image, bits: augment.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: augment.solarize(image, int(threshold)),
    "Color": augment.color,
    "Contrast": augment.contrast,
    "Brightness": augment.brightness,
    "Sharpness": augment.sharpness,
    "ShearX": augment.shear_x,
    "ShearY": augment.shear_y,
    "TranslateX": augment.translate_x,
    "TranslateY": augment.translate_y,
    "SolarizeAdd": lambda image, addition: augment.solarize_add(image, int(addition)),
}
WRAPS = ("Solarize/10", "Solarize/15")  # the official threshold overflows uint8 there


@pytest.mark.parametrize("key", [k for k in ARGUMENTS if k not in WRAPS])
def test_the_operation_equals_the_official_one_to_the_grey_level(key):
    for image, expected in zip(GOLDEN["images"], GOLDEN[key]):
        ours = OURS[key.split("/")[0]](tf.constant(image), *ARGUMENTS[key])
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("key", WRAPS)
def test_a_threshold_of_256_solarizes_nothing_where_the_official_one_wraps(key):
    image = GOLDEN["images"][0]
    np.testing.assert_array_equal(augment.solarize(tf.constant(image), 256), image)
    assert not np.array_equal(GOLDEN[key][0], image)


def test_there_are_the_official_sixteen_operations():
    assert len(OPERATIONS) == 16


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_keeps_shape_and_type_in_a_graph(operation):
    image = tf.constant(GOLDEN["images"][0])
    out = tf.function(lambda x: operation(x, 0.9, tf.constant([3, 4])))(image)
    assert out.dtype == tf.uint8
    assert out.shape == image.shape


def test_cutout_greys_a_square():
    image = tf.zeros((60, 60, 3), tf.uint8)
    hit = augment.cutout(image, 10, tf.constant([0, 1])).numpy() == 128
    assert 0 < hit[..., 0].sum() <= 19 * 19
    assert (hit[..., 0] == hit[..., 2]).all()


@pytest.mark.parametrize(("side", "shift"), [(32, 10), (64, 20), (128, 40), (300, 40)])
def test_distances_are_the_papers_at_their_sizes_and_shrink_below(side, shift):
    image = tf.constant(np.full((side, side, 3), 7, np.uint8))
    (translate,) = (op for op in OPERATIONS if op.__name__ == "_translate_x")
    moved = translate(image, 0.4, tf.constant([0, 1])).numpy()
    assert (moved[0, :, 0] == 128).sum() == shift


def test_randaugment_is_a_function_of_its_seed():
    image = tf.constant(GOLDEN["images"][0])
    run = tf.function(lambda seed: randaugment(image, seed, magnitude=10, layers=2))
    outs = [run(tf.constant([0, n], tf.int64)).numpy() for n in range(12)]
    np.testing.assert_array_equal(outs[3], run(tf.constant([0, 3], tf.int64)))
    assert len({o.tobytes() for o in outs}) > 8
