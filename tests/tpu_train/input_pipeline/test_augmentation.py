"""Every operation against the official code's output (see tests/golden/README.md); policies, noise
and draws by their statistics."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline import augmentation, image_ops
from tpu_train.input_pipeline.augmentation import OPERATIONS, POLICY_V0, autoaugment, randaugment
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.recipes.phases import make_phases
from tpu_train.recipes.table import find_recipe

GOLDEN_DIR = pathlib.Path(__file__).parents[2] / "golden"
GOLDEN = np.load(GOLDEN_DIR / "randaugment.npz")
ARGUMENTS = json.loads((GOLDEN_DIR / "randaugment_args.json").read_text())
OURS = {
    "AutoContrast": image_ops.autocontrast,
    "Equalize": image_ops.equalize,
    "Invert": image_ops.invert,
    "Rotate": image_ops.rotate,
    "Posterize": lambda image, bits: image_ops.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: image_ops.solarize(image, int(threshold)),
    "Color": image_ops.color,
    "Contrast": image_ops.contrast,
    "Brightness": image_ops.brightness,
    "Sharpness": image_ops.sharpness,
    "ShearX": image_ops.shear_x,
    "ShearY": image_ops.shear_y,
    "TranslateX": image_ops.translate_x,
    "TranslateY": image_ops.translate_y,
    "SolarizeAdd": lambda image, addition: image_ops.solarize_add(image, int(addition)),
}
WRAPS = ("Solarize/10", "Solarize/15")  # the official threshold overflows uint8 there


def off_by_one_allowed(image):
    """Where the official smoothing may come out one lower: its sum in float32 hangs on the CPU."""
    pixels = image.astype(int)
    total = sum(
        pixels[y : y + image.shape[0] - 2, x : x + image.shape[1] - 2]
        for y in range(3)
        for x in range(3)
    )
    total += 4 * pixels[1:-1, 1:-1]
    return np.pad(total % 13 == 0, ((1, 1), (1, 1), (0, 0)))


def equal(key, index, ours):
    expected = GOLDEN[key][index]
    if key.startswith("Sharpness"):
        same = off_by_one_allowed(GOLDEN["images"][index])
        most = abs(ARGUMENTS[key][0] - 1) + 1  # what one level of the smoothed pixel comes to
        assert (np.abs(np.asarray(ours)[same].astype(int) - expected[same]) <= most).all()
        ours, expected = np.asarray(ours)[~same], expected[~same]
    return np.array_equal(ours, expected)


@pytest.mark.parametrize("key", [k for k in ARGUMENTS if k not in WRAPS])
def test_the_operation_equals_the_official_one_to_the_grey_level(key):
    for index, image in enumerate(GOLDEN["images"]):
        assert equal(key, index, OURS[key.split("/")[0]](tf.constant(image), *ARGUMENTS[key]))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.5])
def test_sharpness_smooths_by_whole_thirteenths(factor):
    """The exact sum: the same on every processor."""
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
def test_a_warp_is_tensorflow_s_own(side):
    """Against ImageProjectiveTransformV3, halves among the coordinates too."""
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
def test_a_threshold_of_256_solarizes_nothing_where_the_official_one_wraps(key):
    image = GOLDEN["images"][0]
    np.testing.assert_array_equal(image_ops.solarize(tf.constant(image), 256), image)
    assert not np.array_equal(GOLDEN[key][0], image)


@pytest.mark.parametrize("key", WRAPS)
def test_solarize_wraps_to_the_official_output(key):
    level = int(key.split("/")[1]) / 10
    limits = augmentation.Limits(100.0, 40.0, solarize_wraps=True)
    for image, expected in zip(GOLDEN["images"], GOLDEN[key]):
        ours = OPERATIONS["Solarize"](tf.constant(image), level, None, limits)
        np.testing.assert_array_equal(ours, expected)


LIMITS = augmentation.Limits(100.0, 40.0)


def over_seeds(function, count):
    """The outputs of a function of a seed for many of them, as arrays."""
    seeds = tf.stack([tf.zeros([count], tf.int64), tf.range(count, dtype=tf.int64)], 1)
    function = tf.autograph.experimental.do_not_convert(function)
    outs = tf.data.Dataset.from_tensor_slices(seeds).map(function).batch(count)
    return tf.nest.map_structure(lambda x: x.numpy(), next(iter(outs)))


def test_there_are_the_official_sixteen_operations():
    assert len(OPERATIONS) == 16
    assert set(OPERATIONS) == {*OURS, "Cutout"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_shape_and_type_in_a_graph(name):
    image = tf.constant(GOLDEN["images"][0])
    operation = OPERATIONS[name]
    out = tf.function(lambda x: operation(x, 0.9, tf.constant([0.3, 0.4]), LIMITS))(image)
    assert out.dtype == tf.uint8
    assert out.shape == image.shape


@pytest.mark.parametrize("name", [k for k in OPERATIONS if k != "Cutout"])
@pytest.mark.parametrize("level", [3, 5, 10, 15])
def test_an_operation_at_a_level_is_the_official_one_at_that_level(name, level):
    """The table's arithmetic from level to argument; either sign, as it was drawn there."""
    key = f"{name}/{level}"
    if key in WRAPS:
        return
    # The goldens were drawn with 100 pixels of translation on images of 48 pixels a side.
    limits = augmentation.Limits(100.0 * 128 / 48, 40.0)
    image = tf.constant(GOLDEN["images"][0])
    outs = [OPERATIONS[name](image, level / 10, tf.constant([u, 0.5]), limits) for u in (0.2, 0.7)]
    assert any(equal(key, 0, out) for out in outs)


def test_cutout_greys_a_square():
    image = tf.zeros((60, 60, 3), tf.uint8)
    hit = image_ops.cutout(image, 10, tf.constant([0.5, 0.5])).numpy() == 128
    assert hit[20:40, 20:40].all()  # twice the pad, from the centre minus it, as the official one
    assert hit.sum() == 20 * 20 * 3
    at_the_corner = image_ops.cutout(image, 10, tf.constant([0.0, 0.999])).numpy() == 128
    assert at_the_corner.sum() == 10 * 11 * 3
    assert at_the_corner[:10, 49:].all()


@pytest.mark.parametrize(("side", "shift"), [(32, 10), (64, 20), (128, 40), (300, 40)])
def test_distances_are_the_papers_at_their_sizes_and_shrink_below(side, shift):
    image = tf.constant(np.full((side, side, 3), 7, np.uint8))
    moved = OPERATIONS["TranslateX"](image, 0.4, tf.constant([0.0, 0.0]), LIMITS).numpy()
    assert (moved[0, :, 0] == 128).sum() == shift


@pytest.mark.parametrize(
    "policy",
    [
        lambda image, seed: randaugment(image, seed, magnitude=10, layers=2),
        autoaugment,
        lambda image, seed: augmentation.cutout_noise(image[:, :48], seed, share=0.2),
        lambda image, seed: augmentation.random_erasing(image[:, :48], seed, probability=1.0),
    ],
    ids=["randaugment", "autoaugment", "cutout_noise", "random_erasing"],
)
def test_a_policy_is_a_function_of_its_seed(policy):
    image = tf.constant(GOLDEN["images"][0])
    one, again = (over_seeds(lambda seed: policy(image, seed), 24) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert len({o.tobytes() for o in one}) > 8


def counted(monkeypatch, operations):
    """The policies' operations replaced by marks: operation number i writes i + 1 on the image."""

    def mark(number):
        # Base 32: the first operation's mark, then the second's.
        return lambda image, level, u, limits: image * 32 + number

    for number, name in enumerate(operations, 1):
        monkeypatch.setitem(augmentation.OPERATIONS, name, mark(number))


def test_randaugment_draws_every_operation_equally_often_in_every_layer(monkeypatch):
    names = list(OPERATIONS)
    counted(monkeypatch, names)
    zero = tf.zeros([1, 1, 1], tf.int32)
    draws = 4096
    marks = over_seeds(lambda seed: randaugment(zero, seed, magnitude=5, layers=2), draws).ravel()
    for layer in (marks // 32, marks % 32):
        counts = np.bincount(layer, minlength=17)
        assert counts[0] == 0
        expected = draws / 16
        assert (np.abs(counts[1:] - expected) < 5 * np.sqrt(expected)).all()
    assert len(set(marks)) == 256  # layers are independent of each other


def test_policy_v0_is_25_pairs_of_known_operations():
    assert len(POLICY_V0) == 25
    for pair in POLICY_V0:
        assert len(pair) == 2
        for name, probability, level in pair:
            assert name in OPERATIONS
            assert 0 <= probability <= 1
            assert level in range(11)
    # Sums of the published table, so that a digit that changes is seen.
    probabilities = [p for pair in POLICY_V0 for _, p, _ in pair]
    levels = [level for pair in POLICY_V0 for *_, level in pair]
    assert sum(probabilities) == pytest.approx(29.8)
    assert sum(levels) == 240


def test_autoaugment_draws_each_pair_equally_and_each_operation_by_its_probability(monkeypatch):
    names = sorted({name for pair in POLICY_V0 for name, *_ in pair})
    counted(monkeypatch, names)
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


def test_autoaugment_takes_its_own_distances():
    """250 pixels at level 10, where RandAugment has 100."""
    image = tf.constant(np.full((300, 300, 3), 7, np.uint8))
    limits = augmentation._AUTOAUGMENT
    moved = OPERATIONS["TranslateY"](image, 0.9, tf.constant([0.0, 0.0]), limits).numpy()
    assert (moved[:, 0, 0] == 128).sum() == 225
    assert limits.cutout == 100


def test_cutout_noise_is_a_square_of_bright_noise_on_every_image():
    black = tf.zeros([40, 40, 3], tf.uint8)
    out = over_seeds(lambda seed: augmentation.cutout_noise(black, seed, share=0.25), 300)
    hit = (out > 0).any(-1)
    assert (out[out > 0] >= 128).all()
    assert out.max() == 255
    rows, columns = hit.any(2).sum(1), hit.any(1).sum(1)
    assert rows.max() == columns.max() == 20
    assert min(rows.min(), columns.min()) == 10  # a centre at the border
    np.testing.assert_array_equal(hit.sum((1, 2)), rows * columns)  # rectangles
    assert len(np.unique(out[0][out[0] > 0])) > 50


def test_random_erasing_has_the_papers_areas_aspects_and_probability():
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


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0])
def test_beta_has_its_mean_and_variance(alpha):
    """Also where a gamma draw itself would vanish in float32."""
    draws = over_seeds(lambda seed: augmentation._beta(seed, alpha), 4000)
    assert np.isfinite(draws).all()
    assert abs(draws.mean() - 0.5) < 0.03
    assert draws.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_cutmix_box_is_centred_anywhere_and_has_beta_s_area():
    size, alpha = 100, 1.0
    boxes = over_seeds(
        lambda seed: augmentation.mixing(seed, seed, size, mixup=0.0, cutmix=alpha)["box"], 3000
    )
    begin, extent = boxes[:, :2], boxes[:, 2:]
    assert (begin >= 0).all()
    assert (begin + extent <= size).all()
    inside = ((begin > 0) & (begin + extent < size)).all(1)
    np.testing.assert_array_equal(
        extent[inside, 0], extent[inside, 1]
    )  # squares, but at the border
    # E of the area of a square of side s = sqrt(uniform) cut at the border: (s - s^2 / 4)^2.
    assert (extent.prod(1) / size**2).mean() == pytest.approx(0.5 - 0.2 + 1 / 48, abs=0.02)


def test_with_both_a_pair_is_either_mixed_up_or_cut():
    def draw(seed):
        pair = tf.stack([tf.constant(9, tf.int64), seed[1] // 2])
        return augmentation.mixing(seed, pair, 64, mixup=0.5, cutmix=0.5)

    draws = over_seeds(draw, 2000)
    cut, mixed = draws["box"][:, 2:].prod(1) > 0, draws["mix"] < 1
    assert not (cut & mixed).any()
    pair_is_cut = cut.reshape(-1, 2).any(1)
    assert not (pair_is_cut & mixed.reshape(-1, 2).any(1)).any()
    assert 0.4 < pair_is_cut.mean() < 0.6
    assert len(np.unique(draws["mix"][mixed])) > 500


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("softmax", 0.0, [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ("sigmoid", 0.0, [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ("softmax", 0.2, [[0.45, 0.05, 0.45, 0.05], [0.05, 0.85, 0.05, 0.05], [0.05] * 4]),
        ("sigmoid", 0.2, [[0.9, 0.1, 0.9, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1] * 4]),
    ],
)
def test_several_labels_are_one_each_or_share_one(loss, smoothing, expected):
    recipe = dataclasses.replace(find_recipe("digits"), loss=loss, label_smoothing=smoothing)
    labels = tf.constant([[0, 2, -1], [1, -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(augmentation.targets(labels, 4, recipe), expected, atol=1e-7)
    one = augmentation.targets(tf.constant([1]), 4, recipe)  # one label an image: the same row
    np.testing.assert_allclose(one, expected[1:2], atol=1e-7)
    twice = augmentation.targets(tf.constant([[1, 1, -1]]), 4, recipe)
    np.testing.assert_allclose(twice, expected[1:2], atol=1e-7)


def test_a_missing_keras_cv_says_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    recipe = dataclasses.replace(find_recipe("digits"), augment="keras_cv")
    with pytest.raises(ValueError, match=r"needs keras_cv.*or give --augment=randaugment"):
        augmentation.keras_cv_layers(recipe, make_phases(recipe, 64)[0], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_keras_cv_gives_images_and_soft_targets(source, mixup, cutmix):
    recipe = dataclasses.replace(
        find_recipe("photos"),
        **{"augment": "keras_cv", "batch_size": 8, "phases": 1, "image_size_last": 32},
        **{"mixup_last": mixup, "cutmix_last": cutmix, "label_smoothing": 0.0},
    )
    (phase,) = make_phases(recipe, source.examples)
    batches = training_batches(source, recipe, phase, first_step=0, end_step=3, replicas=1)
    (images, targets) = zip(*((b["image"], b["target"].numpy()) for b in batches))
    assert {(b.shape, b.dtype) for b in images} == {(tf.TensorShape([8, 32, 32, 3]), tf.uint8)}
    assert all(b.shape == (8, 4) for b in targets)
    np.testing.assert_allclose(np.sum(targets, -1), 1, atol=1e-6)
    soft = ((np.array(targets) > 1e-3) & (np.array(targets) < 1 - 1e-3)).any()
    assert soft == bool(mixup or cutmix)
