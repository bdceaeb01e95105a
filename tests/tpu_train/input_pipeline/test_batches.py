import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.image_preprocessing import Preprocessing, preprocess
from tpu_train.input_pipeline.batches import batch_spec, evaluation_batches, training_batches
from tpu_train.input_pipeline.data_loading import from_arrays
from tpu_train.input_pipeline.targets import oversample
from tpu_train.recipes.phases import make_phases


def batches(source, recipe, first, end, **kwargs):
    phase = make_phases(recipe, source.examples)[0]
    kwargs = {"replicas": 1, **kwargs}
    data = training_batches(source, recipe, phase, first_step=first, end_step=end, **kwargs)
    return [{k: v.numpy() for k, v in b.items()} for b in data]


def plain(recipe, **changes):
    """No augmentation, so that the pixels identify the image."""
    return dataclasses.replace(
        recipe,
        **{"random_crop_min_area": 1, "flip": False, "mixup_first": 0, "mixup_last": 0},
        **{"randaugment_magnitude_first": 0, "randaugment_magnitude_last": 0},
        **changes,
    )


def augmented(recipe, **changes):
    """Every augmentation and both kinds of mixing."""
    everything = {
        "flip": True,
        "cutmix_first": 0.7,
        "cutmix_last": 0.7,
        "cutout": 0.1,
        "random_erasing_prob": 0.5,
    }
    return dataclasses.replace(recipe, **{**everything, **changes})


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_every_epoch_is_another_permutation(source, tiny_recipe):
    recipe = plain(tiny_recipe)
    runs = [batches(source, recipe, e * 3, e * 3 + 3) for e in range(2)]  # 24 images, batch 8
    orders = []
    for run in runs:
        images = np.concatenate([b["image"] for b in run])
        assert len({i.tobytes() for i in images}) == 24
        labels = np.concatenate([b["label"] for b in run])
        assert sorted(labels) == sorted(source.labels)
        orders.append(labels.tolist())
    assert orders[0] != orders[1]


@pytest.mark.every_stack
@pytest.mark.parametrize(
    "augment",
    ["randaugment", "trivialaugment", pytest.param("autoaugment", marks=pytest.mark.slow)],
)
def test_starting_at_a_step_equals_running_to_it(source, tiny_recipe, augment):
    recipe = augmented(tiny_recipe, augment=augment)
    if augment == "trivialaugment":
        changes = {"vertical_flip": True, "quarter_turns": True, "color_jitter": 0.4}
        recipe = dataclasses.replace(recipe, **changes)
        source = oversample(source.take(np.arange(17)), seed=0)
    assert_same(batches(source, recipe, 0, 5)[3:], batches(source, recipe, 3, 5))


@pytest.mark.every_stack
def test_hosts_and_replicas_share_one_global_order(source, tiny_recipe):
    recipe = augmented(tiny_recipe)
    expected = batches(source, recipe, 0, 3)
    hosts = [batches(source, recipe, 0, 3, replicas=2, host=h, hosts=2) for h in range(2)]
    joined = [
        {k: np.concatenate([hosts[0][s][k], hosts[1][s][k]]) for k in expected[s]} for s in range(3)
    ]
    assert_same(expected, joined)
    replicas = batches(source, recipe, 0, 3, replicas=2)  # one host, two replicas
    assert len(replicas) == 6
    for key in ("image", "mix", "box"):
        np.testing.assert_array_equal(
            np.concatenate([replicas[0][key], replicas[1][key]]), expected[0][key]
        )


@pytest.mark.parametrize("hosts", [1, 2])
def test_accumulation_steps_have_consecutive_rows_of_all_replicas(source, tiny_recipe, hosts):
    """So batch-norm groups have the same images on any number of replicas."""
    changes = {"augment": "none", "gradient_accumulation_first": 2, "batch_size": 16}
    recipe = augmented(tiny_recipe, **changes)
    expected = batches(source, recipe, 0, 3)
    replicas = [
        batch
        for host in range(hosts)
        for batch in batches(source, recipe, 0, 3, replicas=4, host=host, hosts=hosts)
    ]
    local = 4 // hosts  # replicas of a host
    for step, batch in enumerate(expected):
        four = [
            replicas[h * 3 * local + step * local + i] for h in range(hosts) for i in range(local)
        ]
        for key, values in batch.items():
            rows = [np.concatenate([r[key][i : i + 2] for r in four]) for i in (0, 2)]
            np.testing.assert_array_equal(np.concatenate(rows), values)


def test_another_seed_gives_other_batches(source, tiny_recipe):
    one, other = (batches(source, plain(tiny_recipe, seed=s), 0, 1)[0] for s in (0, 1))
    assert not np.array_equal(one["label"], other["label"])


def test_images_are_uint8_of_the_size_of_the_phase(source, tiny_recipe):
    (batch,) = batches(source, tiny_recipe, 0, 1)
    assert batch["image"].shape == (8, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


def test_mixup_weights_are_at_least_one_half(source, tiny_recipe):
    weights = np.concatenate([b["mix"] for b in batches(source, tiny_recipe, 0, 9)])
    assert ((weights >= 0.5) & (weights <= 1)).all()
    assert len(np.unique(weights)) > 10


@pytest.mark.parametrize("mixup", [0.0, 0.2])
@pytest.mark.parametrize("cutmix", [0.0, 0.2])
def test_batches_have_the_draws_of_the_phase(source, tiny_recipe, mixup, cutmix):
    recipe = dataclasses.replace(tiny_recipe, mixup_first=mixup, cutmix_first=cutmix)
    (batch,) = batches(source, recipe, 0, 1)
    expected = {"image", "label", *(["mix"] if mixup else []), *(["box"] if cutmix else [])}
    assert batch.keys() == expected
    if mixup:
        assert (batch["mix"].shape, batch["mix"].dtype) == ((8,), np.float32)
    if cutmix:
        assert (batch["box"].shape, batch["box"].dtype) == ((8, 4), np.int32)
    phase = make_phases(recipe, source.examples)[0]
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (tuple(v.shape), v.dtype.as_numpy_dtype) for k, v in batch_spec(phase, 8).items()
    }


def test_several_labels_are_padded(tiny_recipe):
    images = np.arange(8, dtype=np.uint8).repeat(32 * 32 * 3).reshape(8, 32, 32, 3)
    labels = np.array([[i % 4, -1] for i in range(8)], np.int32)
    source = dataclasses.replace(
        from_arrays("x", images, labels[:, 0], "abcd"),
        labels=labels,
    )
    (batch,) = batches(source, plain(tiny_recipe), 0, 1)
    np.testing.assert_array_equal(batch["label"], labels[batch["image"][:, 0, 0, 0]])
    for batch in evaluation_batches(source, 32, 8, replicas=1):
        np.testing.assert_array_equal(batch["label"], labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"random_crop_min_area": 0.3},
        {"flip": True},
        {"randaugment_magnitude_first": 9.0, "randaugment_layers": 2},
        {"augment": "autoaugment"},
        {"augment": "trivialaugment"},
        {"vertical_flip": True},
        {"quarter_turns": True},
        {"color_jitter": 0.4},
        {"cutout": 0.2},
        {"random_erasing_prob": 1.0},
        {"interpolation": "bicubic"},
    ],
    ids=str,
)
def test_every_augmentation_setting_changes_the_images(source, tiny_recipe, changes):
    recipe = plain(tiny_recipe)
    before, after = (
        batches(source, r, 0, 1)[0] for r in (recipe, dataclasses.replace(recipe, **changes))
    )
    assert not np.array_equal(before["image"], after["image"])
    np.testing.assert_array_equal(before["label"], after["label"])


def test_solarize_wraps_is_read_from_the_recipe(source, tiny_recipe):
    """At magnitude 10 it inverts images that otherwise stay unchanged."""
    recipe = plain(tiny_recipe, randaugment_layers=1)
    recipe = dataclasses.replace(recipe, randaugment_magnitude_first=10.0)
    wraps = dataclasses.replace(recipe, solarize_wraps=True)
    one, other = (
        np.concatenate([b["image"] for b in batches(source, r, 0, 6)]) for r in (recipe, wraps)
    )
    differ = (one != other).any(axis=(1, 2, 3))
    assert 0 < differ.sum() < 12  # one image in 16
    np.testing.assert_array_equal(one[differ], 255 - other[differ])


def test_augment_none_keeps_crop_and_flip(source, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, augment="none")
    bare = dataclasses.replace(tiny_recipe, randaugment_magnitude_first=0.0)
    assert_same(batches(source, recipe, 0, 1), batches(source, bare, 0, 1))


@pytest.mark.parametrize("batch_size", [8, 10, 64])
@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_counts_every_image_once(source, batch_size, hosts):
    labels, weight = [], 0
    for host in range(hosts):
        data = evaluation_batches(source, 32, batch_size, replicas=2, host=host, hosts=hosts)
        for b in data:
            is_image = b["weight"].numpy() > 0
            labels += b["label"].numpy()[is_image].tolist()
            weight += b["weight"].numpy().sum()
    assert weight == source.examples
    assert sorted(labels) == sorted(source.labels)


@pytest.mark.every_stack
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [0.0, 0.7, 0.875, 1.0])
@pytest.mark.parametrize(("height", "width"), [(41, 67), (120, 80), (31, 31)])
def test_evaluation_matches_keras_effnet_preprocess(interpolation, crop, height, width):
    """To one gray level: TensorFlow's resize rounds its weights differently."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, height, width, 3)).astype(np.uint8)
    source = from_arrays("x", images, np.arange(4) % 2, "ab")
    (batch,) = evaluation_batches(source, 32, 4, replicas=1, crop=crop, interpolation=interpolation)
    input_spec = Preprocessing(32, crop or None, interpolation)
    expected = np.stack([preprocess(image, input_spec) for image in images])
    off = np.abs(batch["image"].numpy().astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_center_crop_sides_round_down_like_int():
    """0.875 and 0.7 of every shorter side up to 600: float32 would be off by one for some."""
    from tpu_train.input_pipeline.batches import _evaluation_window

    for crop in (0.875, 0.7, 224 / 256, 0.9, 0.1):
        sides = [
            int(_evaluation_window(tf.constant([n, 700]), crop)[2]) for n in range(100, 600, 7)
        ]
        assert sides == [int(crop * n) for n in range(100, 600, 7)]
