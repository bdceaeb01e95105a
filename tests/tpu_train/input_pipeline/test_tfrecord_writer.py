import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.cli.prepare import main
from tpu_train.input_pipeline import tfrecord
from tpu_train.input_pipeline import tfrecord_writer as module
from tpu_train.input_pipeline.batches import evaluation_batches, training_batches
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.tfrecord_writer import PrepareError, check, prepare, summary
from tpu_train.recipes.phases import make_phases


@pytest.fixture
def photos(tmp_path):
    """Two classes of JPEG and PNG files, 12 each, of different sizes."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 255, (40 + i, 50, 3)).astype(np.uint8)
            encode, ending = (tf.io.encode_png, "png") if i == 1 else (tf.io.encode_jpeg, "jpg")
            (root / name / f"{i:02}.{ending}").write_bytes(encode(pixels).numpy())
    return root


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def examples(folder, part):
    for path in sorted(folder.glob(f"{part}-*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield tf.train.Example.FromString(record).features.feature


def test_records_have_imagenet_s_keys_and_every_image_is_in_one(photos, tmp_path):
    out = tmp_path / "out"
    prepared = prepare(photos, out, shard_count=3, minival=4, holdout=0.25)
    assert prepared.images == {"train": 14, "minival": 4, "validation": 6}
    assert prepared.shards == {"train": 3, "minival": 1, "validation": 1}
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    names = []
    for part, count in prepared.images.items():
        found = list(examples(out, part))
        assert len(found) == count
        for own in found:
            name = own["image/filename"].bytes_list.value[0].decode()
            names.append(name)
            encoded = own["image/encoded"].bytes_list.value[0]
            assert encoded == (photos / name).read_bytes()
            kind = name.split("/")[0]
            assert own["image/class/text"].bytes_list.value[0] == kind.encode()
            assert own["image/class/label"].int64_list.value[0] == ["", "cat", "dog"].index(kind)
            assert own["image/format"].bytes_list.value[0] == (b"PNG" if "png" in name else b"JPEG")
            size = [own[f"image/{side}"].int64_list.value[0] for side in ("height", "width")]
            assert size == list(tf.io.decode_image(encoded).shape[:2])
    assert len(names) == len(set(names)) == 24
    assert "14 images      3 shards" in summary(prepared)


def test_training_on_what_was_prepared_is_training_on_the_input(photos, tmp_path, tiny_recipe):
    prepare(photos, tmp_path / "out", shard_count=3, holdout=0.25)
    original, prepared = (
        open_data(data, holdout=0.25, seed=0) for data in (photos, tmp_path / "out")
    )
    phase = make_phases(tiny_recipe, 18)[0]
    runs = [
        [
            *training_batches(train, tiny_recipe, phase, first_step=0, end_step=3, replicas=1),
            *evaluation_batches(evaluation, 32, 8, replicas=1),
        ]
        for train, evaluation in (original, prepared)
    ]
    for one, other in zip(*runs):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_the_index_finds_each_record_and_knows_each_file_s_checksum(photos, tmp_path):
    prepare(photos, tmp_path / "out", shard_count=2)
    header, entries = tfrecord.read_index(tmp_path / "out")
    assert header["classes"] == ["cat", "dog"]
    assert [e["file"] for e in entries][:2] == ["train-00000-of-00002", "train-00001-of-00002"]
    for entry in entries:
        path = tmp_path / "out" / entry["file"]
        records = tfrecord.scan([str(path)])
        assert records.offsets.tolist() == entry["offsets"]
        assert records.lengths.tolist() == entry["lengths"]
        assert [[label] for label in records.labels] == entry["labels"]
        assert path.stat().st_size == entry["bytes"]
    assert sorted(p for e in entries if e["part"] == "train" for p in e["positions"]) == [
        *range(20)
    ]


def test_pixels_and_several_labels_come_back(tmp_path):
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


def test_a_list_with_several_labels_is_prepared(photos, tmp_path):
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}|animal" for p in photos.glob("*/0*.jpg")]
    (photos / "list.csv").write_text("image,label\n" + "\n".join(rows))
    prepare(photos / "list.csv", tmp_path / "out")
    training, _ = open_data(tmp_path / "out", holdout=0.2, seed=0)
    assert training.classes == ("animal", "cat", "dog")
    assert {tuple(own) for own in training.labels.tolist()} == {(0, 1), (0, 2)}


def test_the_same_input_gives_the_same_bytes(photos, tmp_path):
    prepare(photos, tmp_path / "one", shard_count=2, minival=0.1)
    photos.rename(tmp_path / "elsewhere")
    prepare(tmp_path / "elsewhere", tmp_path / "two", shard_count=2, minival=0.1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    prepare(tmp_path / "elsewhere", tmp_path / "three", shard_count=2, minival=0.1, seed=1)
    assert files(tmp_path / "one") != files(tmp_path / "three")


def test_shards_may_lie_in_another_file_system(photos):
    prepare(photos, "ram://prepared", shard_count=2)
    assert not check("ram://prepared").problems
    assert open_data("ram://prepared", holdout=0.2, seed=0)[0].examples == 20


def test_a_cut_run_goes_on_and_writes_no_whole_shard_again(photos, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    prepare(photos, whole, shard_count=4)
    out, wrote, real = tmp_path / "out", [], module._write_shard

    def write_shard(folder, name, *args):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(name)
        return real(folder, name, *args)

    monkeypatch.setattr(module, "_write_shard", write_shard)
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, out, shard_count=4)
    assert not (out / "index.jsonl").exists()
    with pytest.raises(ValueError, match="did not finish: give the same command again"):
        open_data(out, holdout=0.2, seed=0)
    with pytest.raises(ValueError, match="holds a part of other data, or of the same with other"):
        prepare(photos, out, shard_count=3)
    (out / wrote[1]).write_bytes(b"torn")
    before = (out / wrote[0]).stat().st_mtime_ns
    monkeypatch.setattr(module, "_write_shard", real)
    prepared = prepare(photos, out, shard_count=4)
    assert prepared.written == 24 - 5
    assert (out / wrote[0]).stat().st_mtime_ns == before
    assert files(out) == files(whole)
    assert not (out / ".partial").exists()
    assert prepare(photos, out, shard_count=4).written == 0


@pytest.mark.slow  # starts two interpreters
def test_a_killed_run_ends_with_the_same_bytes(photos, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare(photos, whole, shard_count=20)
    command = [sys.executable, "-m", "tpu_train.cli.prepare", f"--data={photos}", f"--out={out}"]
    command.append("--shards=20")
    for _ in range(10):  # a busy machine may come too late to kill it
        shutil.rmtree(out, ignore_errors=True)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(out.glob("train-0000[3-9]*")):
            assert running.poll() is None
        running.kill()
        running.wait()
        if not (out / "index.jsonl").exists():
            break
    assert running.returncode == -signal.SIGKILL
    assert not (out / "index.jsonl").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert files(out) == files(whole)


def test_a_full_disk_is_said_and_the_partial_file_removed(photos, tmp_path, monkeypatch):
    class Full(tf.io.TFRecordWriter):
        def write(self, record):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    out = tmp_path / "out"
    with pytest.raises(PrepareError, match="out cannot be written to: the disk is full"):
        prepare(photos, out)
    assert not [name for name in os.listdir(out / ".partial") if name.startswith("train")]
    monkeypatch.undo()
    prepare(photos, out)
    assert not check(out).problems


def test_bytes_that_the_disk_changed_are_not_kept(photos, tmp_path, monkeypatch):
    class Forgetful(tf.io.TFRecordWriter):
        def __init__(self, path):
            super().__init__(path)
            self.path = pathlib.Path(path)

        def __exit__(self, *error):
            super().__exit__(*error)
            kept = bytearray(self.path.read_bytes())
            kept[1000] ^= 1
            self.path.write_bytes(kept)

    monkeypatch.setattr(tf.io, "TFRecordWriter", Forgetful)
    with pytest.raises(PrepareError, match="gives back other bytes than were written"):
        prepare(photos, tmp_path / "out")
    assert not list((tmp_path / "out").glob("train-*"))


def test_corrupt_images_are_left_out_by_name_up_to_the_limit(photos, tmp_path):
    first = tmp_path / "first"
    prepare(photos, first, shard_count=2)
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
        ({"minival": 20}, "minival 20 of 20 training images"),
        ({"minival": -0.1}, "minival -0.1 of 20"),
        ({"minival": 2.5}, "minival 2.5 of 20"),
    ],
)
def test_numbers_that_leave_nothing_are_refused(photos, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        prepare(photos, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(photos, tmp_path):
    with pytest.raises(ValueError, match="is not empty: choose another folder"):
        prepare(photos, photos)
    prepare(photos, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(ValueError, match="holds other data, or the same with other flags"):
        prepare(photos, tmp_path / "out", minival=3)
    assert files(tmp_path / "out") == before


def test_a_check_names_what_is_wrong(photos, tmp_path, capsys):
    out = tmp_path / "out"
    prepare(photos, out, shard_count=2)
    assert main(["--check", f"--data={out}"]) == 0
    assert "24 images in 3 shards decoded, checksums verified: no problems" in (
        capsys.readouterr().out
    )
    path = out / "train-00001-of-00002"
    torn = bytearray(path.read_bytes())
    torn[len(torn) // 2] ^= 1
    path.write_bytes(torn)
    assert main(["--check", f"--data={out}"]) == 1
    said = capsys.readouterr().out
    assert f"{path} is not what was written: its SHA-256 differs" in said
    assert f"{path} is truncated or damaged" in said
    path.write_bytes(torn[:-9])
    with pytest.raises(ValueError, match=r"bytes, but index\.jsonl says"):
        open_data(out, holdout=0.2, seed=0)


def test_one_line_prepares(photos, tmp_path, capsys):
    assert main([f"--data={photos}", f"--out={tmp_path / 'out'}", "--minival=0.1"]) == 0
    said = capsys.readouterr()
    assert "24 images written and verified" in said.out
    assert "Train on it: effnet-train --data=" in said.out
    assert "images/s" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (["--data=x"], "give --out for what is written, or --check"),
        (["--data=x", "--out=y", "--check"], "give --out for what is written, or --check"),
        (["--data=nowhere", "--out=y"], "'nowhere' is not there"),
        (["--data=x", "--shard=3"], "Did you mean: shards"),
        (["x"], "'x' is no flag"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
