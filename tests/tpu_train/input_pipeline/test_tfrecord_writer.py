import dataclasses
import errno
import os
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.datasets.tfrecord import read_index
from tests.tpu_train.forked_command import ForkedCommand
from tpu_train.cli.prepare import main
from tpu_train.folder_lock import locked
from tpu_train.input_pipeline import prepare_workers
from tpu_train.input_pipeline.batches import evaluation_batches, training_batches
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.tfrecord import scan
from tpu_train.input_pipeline.tfrecord_shard import PrepareError
from tpu_train.input_pipeline.tfrecord_verification import verify_shards
from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, summary, write_shards
from tpu_train.recipes.phases import make_phases


def prepare(data, folder, **options):
    return write_shards(data, folder, WriterOptions(**options))


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def examples(folder, split):
    for path in sorted(folder.glob(f"{split}-*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield tf.train.Example.FromString(record).features.feature


def test_every_image_is_in_one_record_with_imagenet_keys(pictures, tmp_path):
    out = tmp_path / "out"
    prepared = prepare(pictures, out, shard_count=3, minival=4, holdout=0.25)
    assert prepared.images == {"train": 14, "minival": 4, "validation": 6}
    assert prepared.shards == {"train": 3, "minival": 1, "validation": 1}
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    names = []
    for split, count in prepared.images.items():
        features = list(examples(out, split))
        assert len(features) == count
        for record in features:
            name = record["image/filename"].bytes_list.value[0].decode()
            names.append(name)
            encoded = record["image/encoded"].bytes_list.value[0]
            assert encoded == (pictures / name).read_bytes()
            kind = name.split("/")[0]
            assert record["image/class/text"].bytes_list.value[0] == kind.encode()
            assert record["image/class/label"].int64_list.value[0] == ["", "cat", "dog"].index(kind)
            assert record["image/format"].bytes_list.value[0] == (
                b"PNG" if "png" in name else b"JPEG"
            )
            size = [record[f"image/{side}"].int64_list.value[0] for side in ("height", "width")]
            assert size == list(tf.io.decode_image(encoded).shape[:2])
    assert len(names) == len(set(names)) == 24
    assert "14 images      3 shards" in summary(prepared)


def test_batches_of_the_shards_equal_those_of_the_input(pictures, tmp_path, tiny_recipe):
    prepare(pictures, tmp_path / "out", shard_count=3, holdout=0.25)
    original, prepared = (
        open_data(data, holdout=0.25, seed=0) for data in (pictures, tmp_path / "out")
    )
    recipe = dataclasses.replace(tiny_recipe, augment="none")  # crops, flips and mixing stay
    phase = make_phases(recipe, 18)[0]
    runs = [
        [
            *training_batches(train, recipe, phase, first_step=0, end_step=3, replicas=1),
            *evaluation_batches(evaluation, 32, 8, replicas=1),
        ]
        for train, evaluation in (original, prepared)
    ]
    for one, other in zip(*runs):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_the_index_has_every_record_and_file_size(pictures, tmp_path):
    prepare(pictures, tmp_path / "out", shard_count=2)
    index = read_index(tmp_path / "out")
    assert index.header["classes"] == ["cat", "dog"]
    assert [e["file"] for e in index.entries][:2] == [
        "train-00000-of-00002",
        "train-00001-of-00002",
    ]
    for entry in index.entries:
        path = tmp_path / "out" / entry["file"]
        labeled = scan([str(path)])
        assert labeled.records.offsets.tolist() == entry["offsets"]
        assert labeled.records.lengths.tolist() == entry["lengths"]
        assert [[label] for label in labeled.labels] == entry["labels"]
        assert path.stat().st_size == entry["bytes"]
    assert sorted(p for e in index.of_split("train") for p in e["positions"]) == [*range(20)]


def test_arrays_are_written_without_loss(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (20, 6, 7, 1)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(20) % 2)
    prepare(tmp_path / "d.npz", tmp_path / "out")
    again = open_data(tmp_path / "out", holdout=0.2, seed=0)
    before = open_data(tmp_path / "d.npz", holdout=0.2, seed=0)
    for one, other in zip(before, again):
        assert one.labels.tolist() == other.labels.tolist()
        for i in range(one.examples):
            pixels = (s.crop(s.read(tf.constant(i)), [0, 0, 6, 7]).numpy() for s in (one, other))
            np.testing.assert_array_equal(*pixels)


def test_a_minival_may_be_the_only_held_out_split(pictures, tmp_path):
    prepared = prepare(pictures, tmp_path / "out", shard_count=1, minival=4, holdout=0)
    assert prepared.images == {"train": 20, "minival": 4}
    _, evaluation = open_data(tmp_path / "out", holdout=0.2, seed=0)
    assert evaluation.examples == 4


def test_a_manifest_with_several_labels_is_written(pictures, tmp_path):
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}|animal" for p in pictures.glob("*/0*.jpg")]
    (pictures / "manifest.csv").write_text("image,label\n" + "\n".join(rows))
    prepare(pictures / "manifest.csv", tmp_path / "out")
    training, _ = open_data(tmp_path / "out", holdout=0.2, seed=0)
    assert training.classes == ("animal", "cat", "dog")
    assert {tuple(row) for row in training.labels.tolist()} == {(0, 1), (0, 2)}


def test_the_same_input_gives_the_same_bytes(pictures, tmp_path):
    prepare(pictures, tmp_path / "one", shard_count=2, minival=0.1)
    pictures.rename(tmp_path / "elsewhere")
    prepare(tmp_path / "elsewhere", tmp_path / "two", shard_count=2, minival=0.1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    prepare(tmp_path / "elsewhere", tmp_path / "three", shard_count=2, minival=0.1, seed=1)
    assert files(tmp_path / "one") != files(tmp_path / "three")


@pytest.mark.slow  # starts two interpreters
def test_two_processes_write_the_bytes_of_one_and_skip_the_same_images(pictures, tmp_path, capsys):
    damaged = pictures / "cat" / "01.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:500] + bytes(200) + content[700:])
    expected = prepare(pictures, tmp_path / "one", shard_count=3)
    prepared = prepare(pictures, tmp_path / "two", shard_count=3, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (prepared.skipped, prepared.written) == (expected.skipped, 23) == (("cat/01.png",), 23)
    assert "prepare: 100%" in capsys.readouterr().err


def test_shards_can_be_written_to_a_remote_path(pictures):
    prepare(pictures, "ram://prepared", shard_count=2)
    assert not verify_shards("ram://prepared").problems
    assert open_data("ram://prepared", holdout=0.2, seed=0)[0].examples == 20


def test_an_interrupted_run_resumes_at_the_first_incomplete_shard(pictures, tmp_path, monkeypatch):
    expected = tmp_path / "expected"
    prepare(pictures, expected, shard_count=4)
    out, wrote, real = tmp_path / "out", [], prepare_workers.write_shard

    def write_shard(plan, *args):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(plan.name)
        return real(plan, *args)

    monkeypatch.setattr(prepare_workers, "write_shard", write_shard)
    with pytest.raises(KeyboardInterrupt):
        prepare(pictures, out, shard_count=4)
    assert not (out / "index.jsonl").exists()
    with pytest.raises(ValueError, match="rerun the same command to resume"):
        open_data(out, holdout=0.2, seed=0)
    with pytest.raises(ValueError, match="has incomplete shards of other data, or of the same"):
        prepare(pictures, out, shard_count=3)
    (out / wrote[1]).write_bytes(b"corrupt")
    before = (out / wrote[0]).stat().st_mtime_ns
    monkeypatch.setattr(prepare_workers, "write_shard", real)
    prepared = prepare(pictures, out, shard_count=4)
    assert prepared.written == 24 - 5
    assert (out / wrote[0]).stat().st_mtime_ns == before
    assert files(out) == files(expected)
    assert not (out / ".partial").exists()
    assert prepare(pictures, out, shard_count=4).written == 0


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(pictures, tmp_path):
    expected, out = tmp_path / "expected", tmp_path / "out"
    prepare(pictures, expected, shard_count=3)
    words = [f"--data={pictures}", f"--out={out}", "--shards=3"]
    process = ForkedCommand(main, words, kill_before=str(out / "train-00001*"))
    _, written = process.communicate()
    assert process.returncode == -signal.SIGKILL, written
    assert [path.name for path in out.glob("train-*")] == ["train-00000-of-00003"]
    assert (out / ".partial" / "train-00001-of-00003").exists()
    assert not (out / "index.jsonl").exists()
    prepare(pictures, out, shard_count=3)
    assert files(out) == files(expected)


def test_two_commands_at_once_on_a_folder_are_an_error(pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with locked(str(out)):
        with pytest.raises(ValueError, match=f"another process is writing to {out}"):
            prepare(pictures, out)
        assert not list(out.iterdir())
    prepare(pictures, out)
    with locked(str(out)):
        prepare(pictures, out)  # complete: nothing is written


def test_a_full_disk_is_an_error_without_partial_files(pictures, tmp_path, monkeypatch):
    class Full(tf.io.TFRecordWriter):
        def write(self, record):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    out = tmp_path / "out"
    with pytest.raises(PrepareError, match=r"cannot write to .*out: the disk is full"):
        prepare(pictures, out)
    assert not [name for name in os.listdir(out / ".partial") if name.startswith("train")]
    monkeypatch.undo()
    prepare(pictures, out)
    assert not verify_shards(out).problems


def test_a_shard_that_the_disk_corrupts_is_removed(pictures, tmp_path, monkeypatch):
    class Corrupting(tf.io.TFRecordWriter):
        def __init__(self, path):
            super().__init__(path)
            self.path = pathlib.Path(path)

        def __exit__(self, *error):
            super().__exit__(*error)
            content = bytearray(self.path.read_bytes())
            content[1000] ^= 1
            self.path.write_bytes(content)

    monkeypatch.setattr(tf.io, "TFRecordWriter", Corrupting)
    with pytest.raises(PrepareError, match="returns other bytes than were written"):
        prepare(pictures, tmp_path / "out")
    assert not list((tmp_path / "out").glob("train-*"))


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(pictures, tmp_path):
    first = tmp_path / "first"
    prepare(pictures, first, shard_count=2)
    (first / "index.jsonl").unlink()
    path = first / "train-00000-of-00002"
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(records[3])
    example.features.feature["image/encoded"].bytes_list.value[0] = b"\xff\xd8\xff no image"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i, record in enumerate(records):
            writer.write(example.SerializeToString() if i == 3 else record)
    prepared = prepare(first, tmp_path / "second")
    assert prepared.skipped == ("train-00000-of-00002 record 3",)
    assert prepared.images == {"train": 19, "validation": 4}
    assert open_data(tmp_path / "second", holdout=0.2, seed=0)[0].examples == 19
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded.*record 3"):
        prepare(first, tmp_path / "third", max_corrupt=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"shard_count": 30}, "30 shards for 20 training images"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"minival": 20}, "minival 20 of 20 training images"),
        ({"minival": -0.1}, "minival -0.1 of 20"),
        ({"minival": 2.5}, "minival 2.5 of 20"),
    ],
)
def test_options_that_leave_no_images_are_errors(pictures, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        prepare(pictures, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_not_changed(pictures, tmp_path):
    with pytest.raises(ValueError, match="is not empty: choose another folder"):
        prepare(pictures, pictures)
    prepare(pictures, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match="has other data, or the same data with other flags"):
        prepare(pictures, tmp_path / "out", minival=3)
    assert files(tmp_path / "out") == before


def test_the_command_writes_shards(pictures, tmp_path, capsys):
    assert main([f"--data={pictures}", f"--out={tmp_path / 'out'}", "--minival=0.1"]) == 0
    output = capsys.readouterr()
    assert "24 images written and verified" in output.out
    assert "Train on them: effnet-train --data=" in output.out
    assert "images/s" in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (["--data=x"], "give either --out"),
        (["--data=x", "--out=y", "--check"], "give either --out"),
        (["--data=nowhere", "--out=y"], "'nowhere' does not exist"),
        (["--data=x", "--shard=3"], "Did you mean '--shards'"),
        (["x"], "'x' is not a flag"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_class_names_that_a_label_file_cannot_hold_are_errors(tmp_path):
    data = tmp_path / "d.npz"
    images = np.zeros((8, 6, 6, 3), np.uint8)
    np.savez(data, images=images, labels=np.arange(8) % 2, classes=np.array(["a", "b "]))
    with pytest.raises(ValueError, match="class names that a label file cannot hold"):
        prepare(data, tmp_path / "out")
