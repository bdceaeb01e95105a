import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.datasets.tfrecord import IMAGE_KEY, LABEL_KEY
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.image_source import corrupt
from tpu_train.recipes.phases import make_phases
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import TrainingError, train


def feature(values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path, rows, *, key=IMAGE_KEY):
    """A shard of (encoded image, labels)."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, labels in rows:
            features = {key: feature([image])}
            if labels:
                features[LABEL_KEY] = feature(labels)
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


@pytest.fixture
def images():
    """Twelve JPEG files of random pixels and different sizes."""
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (30 + i, 40, 3)).astype(np.uint8) for i in range(12)]
    return [tf.io.encode_jpeg(image).numpy() for image in pixels]


@pytest.fixture
def folder(tmp_path, images):
    """Two train shards of 5 and 3 images, a validation shard of 4; classes alternate."""
    root = tmp_path / "shards"
    root.mkdir()
    rows = [(image, [i % 2 + 1]) for i, image in enumerate(images)]
    write(root / "train-00000-of-00002", rows[:5])
    write(root / "train-00001-of-00002", rows[5:8])
    write(root / "validation-00000-of-00001", rows[8:])
    (root / "labels.txt").write_text("cat\ndog\n")
    return root


def opened(folder):
    return open_data(folder, holdout=0.5, seed=0)


def test_records_are_read_by_index_in_any_order(folder, images):
    training, evaluation = opened(folder)
    assert training.classes == ("cat", "dog")
    assert training.labels.tolist() == [0, 1] * 4
    order = [7, 0, 5, 4, 6, 1, 3, 2]
    data = tf.data.Dataset.from_tensor_slices(order).map(training.read, num_parallel_calls=4)
    assert list(data.as_numpy_iterator()) == [images[i] for i in order]
    assert [evaluation.read(tf.constant(i)).numpy() for i in range(4)] == images[8:]


def test_where_names_the_file_and_the_record(folder):
    training, _ = opened(folder)
    assert training.where(6) == f"{folder}/train-00001-of-00002 record 1"


def test_batches_of_shards_equal_those_of_the_folder(folder, images, tmp_path, tiny_recipe):
    for i, image in enumerate(images):
        path = tmp_path / "photos" / ("train" if i < 8 else "val") / "cd"[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    from_folder, _ = opened(tmp_path / "photos")
    by_class = [0, 2, 4, 6, 1, 3, 5, 7]  # the order in which a folder has its images
    from_shards = opened(folder)[0].take(by_class)
    phase = make_phases(tiny_recipe, 8)[0]
    one, other = (
        training_batches(source, tiny_recipe, phase, first_step=0, end_step=3, replicas=1)
        for source in (from_folder, from_shards)
    )
    for a, b in zip(one, other):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_remote_shards_are_read_like_local_ones(folder):
    for path in folder.iterdir():
        tf.io.gfile.makedirs("ram://shards")
        tf.io.gfile.copy(str(path), f"ram://shards/{path.name}", overwrite=True)
    remote, local = opened("ram://shards")[0], opened(folder)[0]
    assert remote.labels.tolist() == local.labels.tolist()
    assert remote.read(tf.constant(6)) == local.read(tf.constant(6))


def test_without_validation_shards_a_fraction_is_held_out(folder):
    (folder / "validation-00000-of-00001").unlink()
    training, evaluation = opened(folder)
    assert (training.examples, evaluation.examples) == (4, 4)
    assert sorted(evaluation.labels) == [0, 0, 1, 1]


def test_several_labels_in_one_split_pad_both_splits(folder, images):
    write(folder / "train-00000-of-00002", [(images[0], [1, 2]), (images[1], [2])])
    training, evaluation = opened(folder)
    assert training.labels[:2].tolist() == [[0, 1], [1, -1]]
    assert evaluation.labels.shape == (4, 2)


def test_without_a_label_file_classes_are_numbers(folder):
    (folder / "labels.txt").unlink()
    assert opened(folder)[0].classes == ("1", "2")


def test_a_missing_shard_is_named(folder):
    (folder / "train-00001-of-00002").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 train shards \(train-00001-of-00002\)"):
        opened(folder)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (slice(0, -20), "train-00001-of-00002 is truncated or damaged"),
        (slice(3, None), "train-00001-of-00002 is truncated or damaged"),
        (slice(0, 0), "train-00001-of-00002 has no records"),
    ],
)
def test_truncated_and_empty_shards_are_errors(folder, keep, message):
    path = folder / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[keep])
    with pytest.raises(ValueError, match=f"{message}.*copy or prepare it again"):
        opened(folder)


def test_a_changed_byte_is_detected_when_opening_and_reading(folder):
    training, _ = opened(folder)
    path = folder / "train-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the last record
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record"):
        training.read(tf.constant(7))
    ((index, why),) = corrupt(training)
    assert training.where(index) == f"{path} record 2"
    assert "corrupted record" in why
    with pytest.raises(ValueError, match="is truncated or damaged"):
        opened(folder)


def test_records_that_are_not_images_are_found(folder, images):
    truncated = images[1][: len(images[1]) // 2]
    rows = [(images[0], [1]), (truncated, [2]), (b"text", [1]), (b"", [1])]
    write(folder / "train-00001-of-00002", rows)
    training, _ = opened(folder)
    assert [index for index, _ in corrupt(training)] == [6, 7, 8]
    assert [index for index, _ in corrupt(training, [8, 5, 6])] == [8, 6]


@pytest.mark.parametrize(
    ("labels", "text", "message"),
    [
        ([0], "cat\ndog\n", "labels from 0 to 2, but labels count from 1 and labels.txt has 2"),
        ([3], "cat\ndog\n", "labels from 1 to 3, but labels count from 1 and labels.txt has 2"),
        ([], "cat\ndog\n", "train-00001-of-00002 record 1 has no label"),
        ([1], "cat\n", "labels from 1 to 2, but labels count from 1 and labels.txt has 1"),
    ],
)
def test_labels_that_do_not_match_the_classes_are_errors(folder, images, labels, text, message):
    write(folder / "train-00001-of-00002", [(images[0], [1]), (images[1], labels)])
    (folder / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        opened(folder)


def test_one_class_is_an_error(tmp_path, images):
    write(tmp_path / "train-00000-of-00001", [(image, [1]) for image in images])
    with pytest.raises(ValueError, match="has only one class"):
        opened(tmp_path)


def test_records_with_other_keys_are_errors(folder, images):
    write(folder / "train-00001-of-00002", [(images[0], [1])], key="picture")
    with pytest.raises(ValueError, match=r"not tf\.train\.Examples with 'image/encoded'"):
        opened(folder)


def test_two_sets_of_one_split_are_errors(folder, images):
    write(folder / "train-00000-of-00001", [(images[0], [1])])
    with pytest.raises(ValueError, match="has two sets of train shards"):
        opened(folder)


def test_missing_train_shards_are_an_error(folder):
    for path in folder.glob("train-*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no train shards, but validation shards"):
        opened(folder)


def test_training_names_a_damaged_record(folder, images, tiny_recipe, tmp_path):
    rows = [(image, [i % 2 + 1]) for i, image in enumerate(images)]
    rows[6] = (images[6][:-400], rows[6][1])  # a truncated JPEG
    write(folder / "train-00001-of-00002", rows[5:8])
    training, evaluation = opened(folder)
    recipe = dataclasses.replace(tiny_recipe, phases=1, epochs=2, batch_size=4)
    with pytest.raises(TrainingError, match=r"train-00001-of-00002 record 1 .*prepare --check"):
        train(recipe, training, evaluation, tmp_path / "run", make_strategy("cpu"))
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.name == "step-000000000"
