import io
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tflite
from keras_effnet.datasets.tfrecord import ENTRY_KEYS
from tflite.cli import compare
from tflite.images import tfrecord
from tflite.images.loader import resize

_SIZE = (8, 8)


def _png(i):
    """A grey image whose pixels are all i."""
    out = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), i, np.uint8)).save(out, "png")
    return out.getvalue()


def _example(**features):
    """A tf.train.Example, as TensorFlow serialises it; __ in a name means /."""

    def feature(values):
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name.replace("__", "/"): feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def _record(i, *labels):
    return _example(
        image__encoded=[_png(i)],
        image__class__label=list(labels) or [i % 2 + 1],
        image__height=[5],
        image__filename=[b"x.png"],
    )


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
    rows = [_record(i) for i in range(12)]
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


def test_a_split_is_named_after_the_folder(shards):
    assert _numbers(_load(f"{shards}/validation")) == [8, 9, 10, 11]
    assert _numbers(_load(f"{shards}/validation/", limit=2)) == [8, 10]
    with pytest.raises(ValueError, match="has no test shards, but train, validation shards"):
        _load(f"{shards}/test")


def test_the_only_split_is_the_default_without_train(shards):
    for n in range(2):
        (shards / f"train-0000{n}-of-00002").unlink()
    assert len(_load(shards).images) == 4
    os.rename(shards / "validation-00000-of-00001", shards / "test-00000-of-00001")
    _write(shards / "val-00000-of-00001", [_record(0)])
    with pytest.raises(ValueError, match=r"has the splits test, val: choose one, e.g. \S+/test"):
        _load(shards)


def test_a_limit_spreads_over_all_shards_and_reads_no_other_records(shards, monkeypatch):
    read = []
    parse_example = tfrecord.parse_example

    def recorded(record):
        read.append(record)
        return parse_example(record)

    monkeypatch.setattr(tfrecord, "parse_example", recorded)
    image_set = _load(shards, limit=4)
    assert _numbers(image_set) == [0, 2, 4, 6]
    assert len(read) == 4
    assert "train (4 of 8 images, 2 classes)" in image_set.source


def test_images_are_prepared_like_those_of_a_folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=90)
    encoded = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "shards").mkdir()
    _write(
        tmp_path / "shards" / "train-00000-of-00001",
        [_example(image__encoded=[encoded], image__class__label=[3])],
    )
    image_set = _load(tmp_path / "shards")
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(image_set.images[0], resize(np.asarray(image), *_SIZE))
    assert image_set.labels.tolist() == [2]
    assert image_set.class_names is None


def test_prepared_shards_are_read_with_and_without_their_index(tmp_path):
    from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, write_shards

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = _png(10 * (name == "dog") + i)
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(pixels)
    options = WriterOptions(shard_count=3)
    write_shards(tmp_path / "photos", tmp_path / "out", options, stream=io.StringIO())
    image_set = _load(tmp_path / "out")
    assert image_set.labels.tolist() == [number // 10 for number in _numbers(image_set)]
    assert image_set.class_names == ("cat", "dog")
    (tmp_path / "out" / "index.jsonl").unlink()
    again = _load(tmp_path / "out")
    assert again.files == image_set.files
    np.testing.assert_array_equal(again.images, image_set.images)
    assert len(_load(tmp_path / "out" / "validation").images) + len(image_set.images) == 12


def test_an_index_that_does_not_match_is_an_error(shards):
    def fails(match, *lines):
        header = json.dumps({"splits": {"train": 8}, "classes": ["cat", "dog"]})
        (shards / "index.jsonl").write_text(f"{header}\n" + "".join(f"{line}\n" for line in lines))
        with pytest.raises(ValueError, match=match):
            _load(shards)

    names = [f"train-0000{n}-of-00002" for n in range(2)]
    sizes = [os.path.getsize(shards / name) for name in names]
    entries = [
        {
            **{key: [] for key in ENTRY_KEYS},
            **{"file": name, "split": "train", "bytes": size, "offsets": [0], "lengths": [9]},
        }
        for name, size in zip(names, sizes)
    ]
    fails("is not an index", "{")
    fails(
        "it lacks labels, lengths, offsets",
        json.dumps({"file": "a", "bytes": 1}),
    )
    fails("index.jsonl has no such file", json.dumps(entries[0]))
    fails("bytes, but index.jsonl has 1: copy", json.dumps({**entries[0], "bytes": 1}))
    fails("record 0 is not at its indexed position", *map(json.dumps, entries))


def test_labels_are_mapped_to_the_classes_of_the_model(shards):
    assert _load(shards, class_names=["dog", "bird", "cat"]).labels.tolist() == [2, 0] * 4
    assert _load(shards, class_names=["n01", "n02"]).labels.tolist() == [0, 1] * 4
    with pytest.raises(ValueError, match=r"class 'dog'. Did you mean 'dogs'.*'cat' is one of them"):
        _load(shards, class_names=["dogs", "cat"])
    with pytest.raises(ValueError, match="Unknown class 'cat'"):
        _load(shards, class_names=["a", "b", "c"])


def test_a_repeated_class_name_is_matched_by_its_position(shards):
    (shards / "labels.txt").write_text("crane\ncrane\n")
    assert _load(shards, class_names=["crane", "crane"]).labels.tolist() == [0, 1] * 4
    with pytest.raises(ValueError, match="class 'crane' is the name of the classes 1 and 2"):
        _load(shards, class_names=["dog", "crane", "crane"])


def test_a_label_file_with_too_few_names_is_ignored(shards):
    (shards / "labels.txt").write_text("cat\n")
    image_set = _load(shards, class_names=["cat", "dog"])
    assert image_set.class_names is None
    assert image_set.labels.tolist() == [0, 1] * 4


def test_several_labels_per_image_are_not_used(shards):
    _write(shards / "train-00001-of-00002", [_record(5, 1, 2)])
    image_set = _load(shards)
    assert len(image_set.images) == 6
    assert image_set.labels is None
    assert "several labels per image: not used" in image_set.source


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(shards):
    bad = [
        _example(image__encoded=[image], image__class__label=[1])
        for image in (b"", b"\xff\xd8\xff no image", _png(1)[:40])
    ]
    _write(shards / "train-00001-of-00002", [*bad, _record(7)])
    image_set = _load(shards, max_corrupt=3)
    assert image_set.skipped == tuple(f"train-00001-of-00002 record {n}" for n in range(3))
    assert _numbers(image_set) == [0, 1, 2, 3, 4, 7]
    assert image_set.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert image_set.files[-1] == "train-00001-of-00002 record 3"
    with pytest.raises(ValueError, match=r"More than 2 .*train-00001-of-00002 record 2"):
        _load(shards, max_corrupt=2)
    _write(shards / "validation-00000-of-00001", bad)
    with pytest.raises(ValueError, match="validation: none of its 3 images can be decoded"):
        _load(shards / "validation")


@pytest.mark.parametrize("kept", [5, 12, 100, -1, -4, -5])
def test_a_truncated_shard_is_an_error(shards, kept):
    path = shards / "train-00001-of-00002"
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"train-00001-of-00002 record [02] is truncated"):
        _load(shards, limit=1)


def test_a_damaged_shard_is_an_error(shards):
    path = shards / "train-00000-of-00002"
    content = bytearray(path.read_bytes())
    second = 16 + struct.unpack_from("<Q", content)[0]
    for at in (second, second + 7, second + 8):
        damaged = content.copy()
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError,
            match=r"record 1 is damaged .*or the file is not an",
        ):
            _load(shards)
    for other in (b"not a TFRecord file", bytes(64)):
        path.write_bytes(other)
        with pytest.raises(ValueError, match="not an uncompressed TFRecord file"):
            _load(shards)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="has no records"):
        _load(shards)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"text", "record 0 is not a tf.train.Example: "),
        (b"", r"has no 'image/encoded' \(bytes\); its keys are none"),
        (_record(0)[:-3], "record 0 is not a tf.train.Example: unexpected end"),
        (
            _example(image=[b"x"], label=[1]),
            r"no 'image/encoded' \(bytes\); .*'image' \(bytes\)",
        ),
        (_example(image__encoded=[3]), r"its keys are 'image/encoded' \(int64\)"),
        (_example(image__encoded=[b"a", b"b"]), "has 2 images in 'image/encoded'"),
        (_example(image__encoded=[b"a"]), "has no 'image/class/label'"),
        (_example(image__encoded=[b"a"], image__class__label=[0.5]), r"label' \(float\)"),
        (_record(0, 0), "record 0 has the label 0, but labels count from 1"),
        (_record(0, -1), "has the label -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # protobuf's bytes differ by process
)
def test_records_with_other_content_are_errors(shards, row, message):
    _write(shards / "train-00000-of-00002", [row])
    with pytest.raises(ValueError, match=message):
        _load(shards)


def test_incomplete_splits_are_errors(shards):
    def fails(match, path=shards):
        with pytest.raises(ValueError, match=match):
            _load(path)

    (shards / "labels.txt").write_bytes(b"\xff\xfe\x00")
    fails("is not UTF-8 text")
    (shards / "labels.txt").unlink()
    os.rename(shards / "train-00001-of-00002", shards / "train-00001-of-00004")
    fails("has two sets of train shards")
    (shards / "train-00000-of-00002").unlink()
    fails(r"lacks 3 of 4 train shards \(train-00000-of-00004, .*\): copy")
    assert len(_load(shards / "validation").images) == 4
    (shards / ".partial").mkdir()
    fails("rerun the same command to resume", shards / "validation")


def test_an_image_folder_inside_a_folder_of_shards(shards):
    (shards / "photos").mkdir()
    (shards / "photos" / "1.png").write_bytes(_png(99))
    assert _numbers(_load(shards / "photos")) == [99]


def test_shards_are_read_without_tensorflow(shards):
    script = (
        "import sys, tflite\n"
        f"assert len(tflite.load_images({str(shards)!r}, (8, 8)).images) == 8\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_command_line_accepts_splits_and_tfds_names(shards, capfd):
    assert tfrecord.exists(str(shards))
    assert tfrecord.exists(f"{shards}/validation")
    assert tfrecord.exists("tfds:cifar10/test")
    assert not tfrecord.exists(f"{shards}/validation/nothing")
    model = str(shards / "none.tflite")
    for data, message in (
        (f"{shards}/validation", "'" + model + "' is not a file"),
        ("tfds:cifar10", "'" + model + "' is not a file"),
        (f"{shards.parent}/validation", "does not exist"),
    ):
        assert compare.main_report([model, "--float=x.tflite", f"--data={data}"]) == 2
        assert message in capfd.readouterr().err
