"""TFRecord shards as calibration and evaluation images; TensorFlow writes them here."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tflite
from keras_effnet.datasets import labeled_images
from keras_effnet.datasets.tfrecord import IMAGE_KEY, LABEL_KEY
from keras_effnet.image_preprocessing import resize
from tflite.cli import compare

_SIZE = (8, 8)


def _png(i):
    """A grey image whose pixels are all i."""
    out = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), i, np.uint8)).save(out, "png")
    return out.getvalue()


def _record(encoded, *labels):
    example = tf.train.Example()
    example.features.feature[IMAGE_KEY].bytes_list.value.append(encoded)
    example.features.feature[LABEL_KEY].int64_list.value.extend(labels)
    return example.SerializeToString()


def _numbered(i, *labels):
    return _record(_png(i), *(labels or [i % 2 + 1]))


def _write(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(row)


@pytest.fixture
def shards(tmp_path):
    """Two train shards of 5 and 3 images, whose pixels are their numbers, and a validation shard of
    4; cats and dogs alternate.
    """
    root = tmp_path / "shards"
    root.mkdir()
    rows = [_numbered(i) for i in range(12)]
    _write(root / "train-00000-of-00002", rows[:5])
    _write(root / "train-00001-of-00002", rows[5:8])
    _write(root / "validation-00000-of-00001", rows[8:])
    (root / "labels.txt").write_text("cat\ndog\n")
    return root


def _load(path, **options):
    return tflite.load_images(path, _SIZE, **options)


def _numbers(image_set):
    return image_set.images[:, 0, 0, 0].tolist()


def test_a_folder_of_shards_is_read_in_file_order(shards):
    image_set = _load(shards)
    assert image_set.images.shape == (8, *_SIZE, 3)
    assert image_set.images.dtype == np.uint8
    assert _numbers(image_set) == list(range(8))
    assert image_set.labels.tolist() == [0, 1] * 4
    assert image_set.class_names == ("cat", "dog")
    assert image_set.files[6] == "train-00001-of-00002 record 1"
    assert image_set.source == f"{shards} train (8 images, 2 classes)"
    assert image_set.skipped == ()


def test_evaluation_is_on_the_validation_shards(shards):
    assert _numbers(_load(shards, evaluation=True)) == [8, 9, 10, 11]
    assert "  the train images; not used: validation" in _load(shards).notes()
    assert _numbers(_load(f"{shards}/validation", limit=2)) == [8, 10]


def test_without_training_shards_the_split_is_named_or_the_only_one(shards):
    for n in range(2):
        (shards / f"train-0000{n}-of-00002").unlink()
    assert len(_load(shards).images) == 4
    (shards / "validation-00000-of-00001").rename(shards / "val-00000-of-00001")
    assert len(_load(shards).images) == 4
    _write(shards / "extra-00000-of-00001", [_numbered(0)])
    with pytest.raises(ValueError, match=r"has the splits extra, val: choose one, e.g. \S+/extra"):
        _load(shards)


def test_a_limit_spreads_over_all_shards_and_reads_no_other_records(shards, monkeypatch):
    read = []
    parse_example = labeled_images.parse_example

    def recorded(record):
        read.append(record)
        return parse_example(record)

    monkeypatch.setattr(labeled_images, "parse_example", recorded)
    image_set = _load(shards, limit=4)
    assert _numbers(image_set) == [0, 2, 4, 6]
    assert len(set(read)) == 4
    assert "train (4 of 8 images, 2 classes)" in image_set.source


def test_images_are_prepared_like_those_of_a_folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=90)
    _write(tmp_path / "train-00000-of-00001", [_record((tmp_path / "a.jpg").read_bytes(), 3)])
    image_set = _load(tmp_path)
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(image_set.images[0], resize(np.asarray(image), *_SIZE))
    assert image_set.labels.tolist() == [2]
    assert image_set.class_names is None


def test_prepared_shards_give_the_images_of_their_folder(tmp_path):
    from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, write_shards

    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        (tmp_path / "photos" / split / name).mkdir(parents=True)
        for i in range(6):
            pixels = _png(10 * (name == "dog") + i)
            (tmp_path / "photos" / split / name / f"{i}.png").write_bytes(pixels)
    options = WriterOptions(shard_count=3)
    write_shards(tmp_path / "photos", tmp_path / "out", options, stream=io.StringIO())
    for limit in (None, 5):
        image_set, folder = (_load(tmp_path / name, limit=limit) for name in ("out", "photos"))
        np.testing.assert_array_equal(image_set.images, folder.images)
        assert image_set.labels.tolist() == folder.labels.tolist()
        assert image_set.class_names == ("cat", "dog")
    (tmp_path / "out" / "index.jsonl").unlink()
    again = _load(tmp_path / "out")  # in another order
    assert again.labels.tolist() == [number // 10 for number in _numbers(again)]
    assert sorted(_numbers(again)) == [*range(6), *range(10, 16)]


def test_labels_are_mapped_to_the_classes_of_the_model(shards):
    assert _load(shards, class_names=["dog", "bird", "cat"]).labels.tolist() == [2, 0] * 4
    assert _load(shards, class_names=["n01", "n02"]).labels.tolist() == [0, 1] * 4
    with pytest.raises(ValueError, match=r"model's 2 \(dogs, cat\): 'dog'. Did you mean 'dogs'"):
        _load(shards, class_names=["dogs", "cat"])
    with pytest.raises(ValueError, match="2 classes are in the data, but not among the model's 3"):
        _load(shards, class_names=["a", "b", "c"])


def test_a_repeated_class_name_is_matched_by_its_position(shards):
    (shards / "labels.txt").write_text("crane\ncrane\n")
    assert _load(shards, class_names=["crane", "crane"]).labels.tolist() == [0, 1] * 4
    with pytest.raises(ValueError, match="'crane' is the name of the model's classes 1 and 2"):
        _load(shards, class_names=["dog", "crane", "crane"])


def test_a_label_file_with_too_few_names_is_ignored(shards):
    (shards / "labels.txt").write_text("cat\n")
    image_set = _load(shards, class_names=["cat", "dog"])
    assert image_set.class_names is None
    assert image_set.labels.tolist() == [0, 1] * 4


def test_several_labels_per_image_are_not_used(shards):
    _write(shards / "train-00001-of-00002", [_numbered(5, 1, 2)])
    image_set = _load(shards)
    assert len(image_set.images) == 6
    assert image_set.labels is None
    assert "several labels per image: not used" in image_set.source


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(shards):
    bad = [_record(image, 1) for image in (b"", b"\xff\xd8\xff no image", _png(1)[:40])]
    _write(shards / "train-00001-of-00002", [*bad, _numbered(7)])
    image_set = _load(shards, max_corrupt=3)
    assert image_set.skipped == tuple(f"{shards}/train-00001-of-00002 record {n}" for n in range(3))
    assert _numbers(image_set) == [0, 1, 2, 3, 4, 7]
    assert image_set.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert image_set.files[-1] == "train-00001-of-00002 record 3"
    with pytest.raises(ValueError, match=r"More than 2 .*train-00001-of-00002 record 2"):
        _load(shards, max_corrupt=2)
    _write(shards / "validation-00000-of-00001", bad)
    with pytest.raises(ValueError, match="validation: none of its 3 images can be decoded"):
        _load(shards / "validation")


def test_shards_are_read_without_tensorflow(shards):
    script = (
        "import sys, tflite\n"
        f"assert len(tflite.load_images({str(shards)!r}, (8, 8)).images) == 8\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_command_line_accepts_splits_and_tfds_names(shards, capfd):
    model = str(shards / "none.tflite")
    for data, message in (
        (f"{shards}/validation", "'" + model + "' is not a file"),
        ("tfds:cifar10", "'" + model + "' is not a file"),
        (f"{shards.parent}/validation", "--data: data '"),
    ):
        assert compare.main_report([model, "--float=x.tflite", f"--data={data}"]) == 2
        assert message in capfd.readouterr().err
