"""Augmentation policies by their statistics; operations at a level against the official code."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tests.tpu_train.input_pipeline.official_randaugment import GOLDEN, OURS, WRAPS, equal
from tpu_train.input_pipeline import augmentation
from tpu_train.input_pipeline.augmentation import OPERATIONS, POLICY_V0, autoaugment, randaugment

pytestmark = pytest.mark.every_stack


@pytest.mark.parametrize("key", WRAPS)
def test_solarize_wraps_as_the_official_code(key):
    level = int(key.split("/")[1]) / 10
    limits = augmentation.Limits(100.0, 40.0, solarize_wraps=True)
    for image, expected in zip(GOLDEN["images"], GOLDEN[key]):
        ours = OPERATIONS["Solarize"](tf.constant(image), level, None, limits)
        np.testing.assert_array_equal(ours, expected)


LIMITS = augmentation.Limits(100.0, 40.0)


def over_seeds(function, count):
    """The outputs of a function of a seed for `count` seeds, as arrays."""
    seeds = tf.stack([tf.zeros([count], tf.int64), tf.range(count, dtype=tf.int64)], 1)
    function = tf.autograph.experimental.do_not_convert(function)
    outs = tf.data.Dataset.from_tensor_slices(seeds).map(function).batch(count)
    return tf.nest.map_structure(lambda x: x.numpy(), next(iter(outs)))


def test_the_16_official_operations_exist():
    assert len(OPERATIONS) == 16
    assert set(OPERATIONS) == {*OURS, "Cutout"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_shape_and_dtype_in_a_graph(name):
    image = tf.constant(GOLDEN["images"][0])
    operation = OPERATIONS[name]
    out = tf.function(lambda x: operation(x, 0.9, tf.constant([0.3, 0.4]), LIMITS))(image)
    assert out.dtype == tf.uint8
    assert out.shape == image.shape


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (name, level)
        for name in OPERATIONS
        for level in (3, 5, 10, 15)
        if name != "Cutout" and f"{name}/{level}" not in WRAPS
    ],
)
def test_operations_at_a_level_equal_the_official_ones(name, level):
    """The arguments that the table computes from a level; the goldens have a random sign."""
    key = f"{name}/{level}"
    # The goldens were drawn with 100 pixels of translation on images of 48 pixels a side.
    limits = augmentation.Limits(100.0 * 128 / 48, 40.0)
    image = tf.constant(GOLDEN["images"][0])
    outs = [OPERATIONS[name](image, level / 10, tf.constant([u, 0.5]), limits) for u in (0.2, 0.7)]
    assert any(equal(key, 0, out) for out in outs)


@pytest.mark.parametrize(("side", "shift"), [(32, 10), (64, 20), (128, 40), (300, 40)])
def test_distances_shrink_for_small_images(side, shift):
    image = tf.constant(np.full((side, side, 3), 7, np.uint8))
    moved = OPERATIONS["TranslateX"](image, 0.4, tf.constant([0.0, 0.0]), LIMITS).numpy()
    assert (moved[0, :, 0] == 128).sum() == shift


@pytest.mark.parametrize(
    "policy",
    [
        lambda image, seed: randaugment(image, seed, magnitude=10, layers=2),
        autoaugment,
        augmentation.trivialaugment,
        lambda image, seed: augmentation.color_jitter(image, seed, strength=0.4),
        lambda image, seed: augmentation.random_cutout(image[:, :48], seed, half_side=0.2),
        lambda image, seed: augmentation.random_erasing(image[:, :48], seed, probability=1.0),
    ],
    ids=[
        *("randaugment", "autoaugment", "trivialaugment", "color_jitter", "random_cutout"),
        "random_erasing",
    ],
)
def test_policies_are_functions_of_their_seed(policy):
    image = tf.constant(GOLDEN["images"][0])
    one, again = (over_seeds(lambda seed: policy(image, seed), 24) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert len({o.tobytes() for o in one}) > 8


def count_operations(monkeypatch, operations):
    """Replaces every operation: number i appends the digit i + 1 to the image in base 32."""

    def mark(number):
        return lambda image, level, u, limits: image * 32 + number

    for number, name in enumerate(operations, 1):
        monkeypatch.setitem(augmentation.OPERATIONS, name, mark(number))


def test_randaugment_draws_operations_uniformly_in_every_layer(monkeypatch):
    names = list(OPERATIONS)
    count_operations(monkeypatch, names)
    zero = tf.zeros([1, 1, 1], tf.int32)
    draws = 4096
    marks = over_seeds(lambda seed: randaugment(zero, seed, magnitude=5, layers=2), draws).ravel()
    for layer in (marks // 32, marks % 32):
        counts = np.bincount(layer, minlength=17)
        assert counts[0] == 0
        expected = draws / 16
        assert (np.abs(counts[1:] - expected) < 5 * np.sqrt(expected)).all()
    assert len(set(marks)) == 256  # layers are independent of each other


def test_policy_v0_has_25_pairs_of_known_operations():
    assert len(POLICY_V0) == 25
    for pair in POLICY_V0:
        assert len(pair) == 2
        for name, probability, level in pair:
            assert name in OPERATIONS
            assert 0 <= probability <= 1
            assert level in range(11)
    # Sums of the published table: a changed digit fails.
    probabilities = [p for pair in POLICY_V0 for _, p, _ in pair]
    levels = [level for pair in POLICY_V0 for *_, level in pair]
    assert sum(probabilities) == pytest.approx(29.8)
    assert sum(levels) == 240


def test_autoaugment_draws_pairs_uniformly_and_steps_by_probability(monkeypatch):
    names = sorted({name for pair in POLICY_V0 for name, *_ in pair})
    count_operations(monkeypatch, names)
    zero = tf.zeros([1, 1, 1], tf.int32)
    draws = 8192
    marks = over_seeds(lambda seed: autoaugment(zero, seed), draws).ravel()
    expected = dict.fromkeys(range(32 * 32), 0.0)
    for (one, p, _), (two, q, _) in POLICY_V0:
        one, two = names.index(one) + 1, names.index(two) + 1
        for mark, share in (
            *((one * 32 + two, p * q), (one, p * (1 - q)), (two, (1 - p) * q)),
            (0, (1 - p) * (1 - q)),
        ):
            expected[mark] += share * draws / len(POLICY_V0)
    counts = np.bincount(marks, minlength=32 * 32)
    for mark, count in expected.items():
        assert abs(counts[mark] - count) <= 5 * np.sqrt(count), mark


def test_autoaugment_has_larger_distances():
    """250 pixels at level 10, where RandAugment has 100."""
    image = tf.constant(np.full((300, 300, 3), 7, np.uint8))
    limits = augmentation._AUTOAUGMENT
    moved = OPERATIONS["TranslateY"](image, 0.9, tf.constant([0.0, 0.0]), limits).numpy()
    assert (moved[:, 0, 0] == 128).sum() == 225
    assert limits.cutout == 100


def test_random_cutout_is_a_bright_square_on_every_image():
    black = tf.zeros([40, 40, 3], tf.uint8)
    out = over_seeds(lambda seed: augmentation.random_cutout(black, seed, half_side=0.25), 300)
    hit = (out > 0).any(-1)
    assert (out[out > 0] >= 128).all()
    assert out.max() == 255
    rows, columns = hit.any(2).sum(1), hit.any(1).sum(1)
    assert rows.max() == columns.max() == 20
    assert min(rows.min(), columns.min()) == 10  # a center at the border
    np.testing.assert_array_equal(hit.sum((1, 2)), rows * columns)  # rectangles
    assert len(np.unique(out[0][out[0] > 0])) > 50


def test_random_erasing_matches_the_published_distributions():
    black = tf.zeros([64, 64, 3], tf.uint8)
    out = over_seeds(lambda seed: augmentation.random_erasing(black, seed, probability=0.5), 600)
    hit = (out > 0).any(-1)
    erased = hit.any((1, 2))
    assert 0.4 < erased.mean() < 0.6
    hit = hit[erased]
    rows, columns = hit.any(2).sum(1), hit.any(1).sum(1)
    area, aspect = rows * columns / 64**2, rows / columns
    assert 0.015 < area.min() < 0.04 < 0.3 < area.max() < 0.35
    assert 0.25 < aspect.min() < 0.45 < 2.8 < aspect.max() < 3.9
    assert abs(area.mean() - 0.175) < 0.02
    assert hit.any(0).mean() > 0.98  # anywhere
    values = out[erased][hit]
    assert abs(values.mean() - 127.5) < 1


# --- TrivialAugment, flips, turns, color jitter ---------------------------------------------------


def trivial(name, level, image):
    """The image after an operation at a level in [0, 1], with a positive sign."""
    largest, _, operation = augmentation._TRIVIAL[name]
    return operation(tf.constant(image), tf.constant(largest * level)).numpy()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Posterize", "Solarize"])
def test_trivialaugments_operations_equal_pillows(name, level):
    """At the levels of torchvision's TrivialAugmentWide; Pillow rounds in another place."""
    image = GOLDEN["images"][0]
    pil = Image.fromarray(image)
    enhance = {
        "Brightness": ImageEnhance.Brightness,
        "Color": ImageEnhance.Color,
        "Contrast": ImageEnhance.Contrast,
    }
    if name in enhance:
        expected = enhance[name](pil).enhance(1 + 0.99 * level)
    elif name == "Posterize":
        expected = ImageOps.posterize(pil, 8 - round(6 * level))
    else:
        expected = ImageOps.solarize(pil, 255 - 255 * level)
    difference = np.abs(trivial(name, level, image).astype(int) - np.asarray(expected))
    assert difference.max() <= (2 if name in enhance else 0)


def test_trivialaugment_draws_every_operation_and_level_equally():
    names, levels = [], []
    image = tf.constant(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    draws = {
        name: (largest, signed, lambda image, level, name=name: _note(image, name, level))
        for name, (largest, signed, _) in augmentation._TRIVIAL.items()
    }

    def _note(image, name, level):
        names.append(name)
        levels.append(float(level))
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "_TRIVIAL", draws)
        for seed in range(700):
            augmentation.trivialaugment(image, tf.constant([0, seed], tf.int64))
    assert set(names) == set(draws)
    assert 25 <= min(map(names.count, draws)) <= max(map(names.count, draws)) <= 80  # of 50
    angles = [level for name, level in zip(names, levels) if name == "Rotate"]
    assert min(angles) < -60 < 60 < max(angles)
    bins = np.array(angles) / 135 * 30
    np.testing.assert_allclose(bins, np.round(bins), atol=1e-4)
    assert max(map(abs, angles)) <= 135


def test_flips_and_turns_occur_equally_often():
    image = tf.constant(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    flips = over_seeds(lambda seed: augmentation.random_vertical_flip(image, seed), 200)
    corners = [tuple(corner) for corner in np.asarray(flips)[:, 0, 0]]
    assert set(corners) == {(0, 1, 2), (6, 7, 8)}
    assert 70 <= corners.count((0, 1, 2)) <= 130
    turns = over_seeds(lambda seed: augmentation.random_quarter_turn(image, seed), 200)
    corners = [tuple(corner) for corner in np.asarray(turns)[:, 0, 0]]
    assert len(set(corners)) == 4
    assert min(map(corners.count, set(corners))) >= 30


def test_color_jitter_stays_within_its_strength():
    image = tf.constant(np.full((8, 8, 3), 100, np.uint8))  # gray: only brightness changes it
    means = over_seeds(lambda seed: augmentation.color_jitter(image, seed, strength=0.4), 100)
    means = means.mean((1, 2, 3))
    assert 59 <= means.min() < 70 < 130 < means.max() <= 140
    still = augmentation.color_jitter(image, tf.constant([0, 1], tf.int64), strength=0.0)
    np.testing.assert_array_equal(still, image)
