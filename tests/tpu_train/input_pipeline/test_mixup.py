import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline import mixup
from tpu_train.input_pipeline.mixup import apply_mixing

pytestmark = pytest.mark.every_stack


def over_seeds(function, count):
    """The outputs of a function of a seed for many of them, as arrays."""
    seeds = tf.stack([tf.zeros([count], tf.int64), tf.range(count, dtype=tf.int64)], 1)
    function = tf.autograph.experimental.do_not_convert(function)
    outs = tf.data.Dataset.from_tensor_slices(seeds).map(function).batch(count)
    return tf.nest.map_structure(lambda x: x.numpy(), next(iter(outs)))


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0])
def test_beta_has_its_mean_and_variance(alpha):
    """Also where a gamma draw would underflow in float32."""
    draws = over_seeds(lambda seed: mixup._beta(seed, alpha), 4000)
    assert np.isfinite(draws).all()
    assert abs(draws.mean() - 0.5) < 0.03
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_cutmix_boxes_have_beta_areas_and_uniform_centers():
    size, alpha = 100, 1.0
    boxes = over_seeds(
        lambda seed: mixup.draw_mixing(seed, seed, size, mixup=0.0, cutmix=alpha)["box"], 3000
    )
    begin, extent = boxes[:, :2], boxes[:, 2:]
    assert (begin >= 0).all()
    assert (begin + extent <= size).all()
    inside = ((begin > 0) & (begin + extent < size)).all(1)
    np.testing.assert_array_equal(
        extent[inside, 0], extent[inside, 1]
    )  # squares, except at the border
    # E of the area of a square of side s = sqrt(uniform) clipped at the border: (s - s^2 / 4)^2.
    assert (extent.prod(1) / size**2).mean() == pytest.approx(0.5 - 0.2 + 1 / 48, abs=0.02)


def test_with_both_each_pair_has_mixup_or_cutmix():
    def draw(seed):
        pair = tf.stack([tf.constant(9, tf.int64), seed[1] // 2])
        return mixup.draw_mixing(seed, pair, 64, mixup=0.5, cutmix=0.5)

    draws = over_seeds(draw, 2000)
    cut, mixed = draws["box"][:, 2:].prod(1) > 0, draws["mix"] < 1
    assert not (cut & mixed).any()
    pair_is_cut = cut.reshape(-1, 2).any(1)
    assert not (pair_is_cut & mixed.reshape(-1, 2).any(1)).any()
    assert 0.4 < pair_is_cut.mean() < 0.6
    assert len(np.unique(draws["mix"][mixed])) > 500


def test_cutmix_pastes_a_box_and_mixes_labels_by_area():
    images = np.repeat([10, 20, 30, 40], 8 * 8 * 3).reshape(4, 8, 8, 3).astype(np.uint8)
    boxes = [
        [0, 0, 4, 4],
        [2, 3, 8, 2],
        [0, 0, 0, 0],
        [0, 0, 8, 8],
    ]  # the second is clipped to 6 rows
    targets = tf.one_hot([0, 1, 2, 0], 3)
    mixed, labels = apply_mixing({"image": tf.constant(images), "box": tf.constant(boxes)}, targets)
    assert mixed.dtype == tf.uint8
    unchanged = (mixed.numpy() == images).mean((1, 2, 3))
    np.testing.assert_array_equal(unchanged, [1 - 16 / 64, 1 - 12 / 64, 1, 0])
    assert mixed.numpy()[0, 4, 4, 0] == 10
    assert mixed.numpy()[0, 3, 3, 0] == 20
    np.testing.assert_array_equal(
        labels, [[0.75, 0.25, 0], [0.1875, 0.8125, 0], [0, 0, 1], [0, 0, 1]]
    )


def test_cutmix_labels_follow_the_pixels_for_any_box():
    random = np.random.default_rng(0)
    images = np.tile([[1], [2]], (50, 6 * 6 * 3)).reshape(100, 6, 6, 3)
    boxes = random.integers(0, 6 + 1, (100, 4)).astype(np.int32)
    mixed, labels = apply_mixing(
        {"image": tf.constant(images, tf.uint8), "box": tf.constant(boxes)},
        tf.one_hot(np.arange(100) % 2, 2),
    )
    unchanged = (mixed.numpy() == images).mean((1, 2, 3))
    np.testing.assert_allclose(
        labels.numpy()[np.arange(100), np.arange(100) % 2], unchanged, atol=1e-6
    )


def test_mixup_weights_pixels_and_labels_alike():
    images = np.repeat([0, 200, 100, 50], 12).reshape(4, 2, 2, 3).astype(np.uint8)
    mixed, labels = apply_mixing(
        {"image": tf.constant(images), "mix": tf.constant([0.75, 0.5, 1.0, 0.625])},
        tf.one_hot([0, 1, 2, 2], 3),
    )
    np.testing.assert_array_equal(mixed[:, 0, 0, 0], [50, 100, 100, 68.75])
    np.testing.assert_array_equal(labels, [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]])


def test_a_batch_without_draws_is_unchanged():
    images, targets = tf.zeros((2, 4, 4, 3), tf.uint8), tf.one_hot([0, 1], 3)
    result = apply_mixing({"image": images}, targets)
    assert result[0] is images
    assert result[1] is targets
