"""Shards read without TensorFlow; TensorFlow writes them here."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_effnet.datasets.dataset import open_dataset
from keras_effnet.datasets.tfrecord import ENTRY_KEYS, IMAGE_KEY, LABEL_KEY

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


def _example(**features):
    """A tf.train.Example, serialized by TensorFlow; __ in a name means /."""
    example = tf.train.Example()
    for name, (value, *more) in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        values = getattr(example.features.feature[name.replace("__", "/")], kind).value
        values.extend([value, *more])
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("row", "of_image", "of_label"),
    [
        (b"text", "record 0 is not a tf.train.Example: ", "is not a tf.train.Example: "),
        (b"", r"no 'image/encoded' \(bytes\); its keys are none", "no 'image/class/label'"),
        (_example(image=[b"x"])[:-3], "is not a tf.train.Example: unexpected end", "end"),
        (
            _example(image=[b"x"], label=[1]),
            r"no 'image/encoded' \(bytes\); .*'image' \(bytes\)",
            r"no 'image/class/label' \(int64\); .*'label' \(int64\)",
        ),
        (_example(image__encoded=[3]), r"its keys are 'image/encoded' \(int64\)", "no 'image/c"),
        (_example(image__encoded=[b"a", b"b"]), "has 2 images in 'image/encoded'", "no 'image/c"),
        (
            _example(image__encoded=[b"text"], image__class__label=[0.5]),
            "record 0: image of 4 bytes is not an image",
            r"label' \(float\)",
        ),
        (
            _example(image__encoded=[b"text"], image__class__label=[0]),
            "record 0: image of 4 bytes is not an image",
            "record 0 has the label 0, but labels count from 1",
        ),
        (_example(image__class__label=[-1]), "no 'image/encoded'", "has the label -1"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # protobuf's bytes differ
)
def test_records_with_other_content_are_errors(shards, row, of_image, of_label):
    with tf.io.TFRecordWriter(str(shards / "test-00000-of-00001")) as writer:
        writer.write(row)
    (images,) = open_dataset(shards).open("test")
    with pytest.raises(ValueError, match=of_image):
        images.pixels(0)
    with pytest.raises(ValueError, match=of_label):
        images.labels_of(0)


def test_splits_of_other_names_are_a_data_set(shards):
    for split, name in (("train", "extra"), ("validation", "more")):
        (shards / f"{split}-00000-of-00001").rename(shards / f"{name}-00000-of-00001")
    assert open_dataset(shards).splits == ("extra", "more")
    assert open_dataset(f"{shards}/more").splits == ("more",)


def test_an_index_that_does_not_match_its_shard_is_an_error(shards):
    name = "train-00000-of-00001"
    entry = {key: [] for key in ENTRY_KEYS}
    entry |= {"file": name, "split": "train", "bytes": (shards / name).stat().st_size}
    entry |= {"offsets": [0], "lengths": [9], "positions": [0], "labels": [[1]]}

    def images(**changes):
        header = {"splits": {"train": 1}, "classes": ["cat", "dog"]}
        lines = [json.dumps(line) for line in (header, {**entry, **changes})]
        (shards / "index.jsonl").write_text("\n".join(lines))
        return open_dataset(shards).open("train")[0]

    with pytest.raises(ValueError, match="record 0 is not at its indexed position"):
        images().pixels(0)
    with pytest.raises(ValueError, match=r"bytes, but index\.jsonl has 1: copy"):
        images(bytes=1)
