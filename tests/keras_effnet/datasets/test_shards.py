"""Shards read without TensorFlow; TensorFlow writes them here."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_effnet.datasets.dataset import open_dataset
from keras_effnet.datasets.tfrecord import IMAGE_KEY, LABEL_KEY

tf = pytest.importorskip("tensorflow")


def _write(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for encoded, labels in rows:
            example = tf.train.Example()
            example.features.feature[IMAGE_KEY].bytes_list.value.append(encoded)
            example.features.feature[LABEL_KEY].int64_list.value.extend(labels)
            writer.write(example.SerializeToString())


@pytest.fixture
def shards(tmp_path):
    """Three train images and two validation images, of 8 x (8 + number) pixels."""
    rows = []
    for i in range(5):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8 + i, 3), i, np.uint8)).save(file, "png")
        rows.append((file.getvalue(), [i % 2 + 1]))
    _write(tmp_path / "train-00000-of-00001", rows[:3])
    _write(tmp_path / "validation-00000-of-00001", rows[3:])
    return tmp_path


def test_labels_of_shards_without_an_index_are_read_when_asked_for(shards):
    dataset = open_dataset(shards)
    assert dataset.splits == ("train", "validation")
    (images,) = dataset.open("train")
    assert (images.classes, images.known_labels) == (None, None)
    assert images.labels_of(1) == (1,)
    assert images.labels.tolist() == [0, 1, 0]
    assert images.take([2]).labels.tolist() == [0]
    assert images.pixels(2).shape == (8, 10, 3)
    assert images.where(2).endswith("train-00000-of-00001 record 2")


def test_a_split_of_shards_is_a_data_set(shards):
    (shards / "labels.txt").write_text("cat\ndog\n")
    dataset = open_dataset(f"{shards}/validation")
    assert dataset.splits == ("validation",)
    (images,) = dataset.open("validation")
    assert images.classes == ("cat", "dog")
    assert [image.labels for image in images] == [(1,), (0,)]
    with pytest.raises(ValueError, match="has no test shards, but train, validation shards"):
        open_dataset(f"{shards}/test")


def test_records_without_an_image_or_label_are_named(shards):
    example = tf.train.Example()
    example.features.feature[IMAGE_KEY].bytes_list.value.append(b"text")
    with tf.io.TFRecordWriter(str(shards / "test-00000-of-00001")) as writer:
        writer.write(example.SerializeToString())
        writer.write(b"text")
    (images,) = open_dataset(shards).open("test")
    for i, message in enumerate(
        ("record 0 has no 'image/class/label'", "record 1 is not a tf.train.Example")
    ):
        with pytest.raises(ValueError, match=message):
            images.labels_of(i)
    with pytest.raises(ValueError, match="record 0: image of 4 bytes is not an image"):
        images.pixels(0)
