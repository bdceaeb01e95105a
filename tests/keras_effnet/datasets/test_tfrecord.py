import json
import struct

import numpy as np
import pytest

from keras_effnet.datasets.tfrecord import (
    ENTRY_KEYS,
    FRAMING,
    FileSystem,
    Records,
    find_shards,
    masked_crc32c,
    read_class_names,
    read_index,
    scan_framing,
    shard_paths,
)

tf = pytest.importorskip("tensorflow")


def write(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(row)


def test_framing_and_checksums_match_tensorflow(tmp_path):
    rows = (b"one", b"", b"two" * 9)
    write(tmp_path / "rows", rows)
    framed = b""
    for row in rows:
        length = struct.pack("<Q", len(row))
        framed += length + struct.pack("<I", masked_crc32c(length))
        framed += row + struct.pack("<I", masked_crc32c(row))
    assert framed == (tmp_path / "rows").read_bytes()


def test_records_are_located_and_read_in_any_order(tmp_path):
    rows = [[b"a", b"bc"], [b"", b"def", b"g"]]
    paths = [str(tmp_path / name) for name in "xy"]
    for path, content in zip(paths, rows):
        write(path, content)
    records = Records.of_files(paths, [scan_framing(path) for path in paths])
    assert [records.read(i) for i in range(len(records))] == [*rows[0], *rows[1]]
    assert records.where(4) == f"{paths[1]} record 2"
    assert records.offsets.tolist() == [0, 1 + FRAMING, 0, FRAMING, 2 * FRAMING + 3]
    reverse = records.take(np.arange(len(records))[::-1])
    assert reverse.read(0) == b"g"
    assert reverse.where(1) == f"{paths[1]} record 1"
    write(paths[0], [b"a", b"b"])
    with pytest.raises(ValueError, match="record 1 is not at its indexed position"):
        records.read(1)


def test_shards_are_grouped_by_split_and_missing_ones_are_named(tmp_path):
    assert find_shards(str(tmp_path)) == {}
    for name in ("train-00000-of-00002", "val-00000-of-00001", "train-1-of-2", "notes.txt"):
        (tmp_path / name).touch()
    splits = find_shards(str(tmp_path))
    assert set(splits) == {"train", "val"}
    assert shard_paths("f", "val", splits["val"]) == [str(tmp_path / "val-00000-of-00001")]
    with pytest.raises(ValueError, match=r"lacks 1 of 2 train shards \(train-00001-of-00002\)"):
        shard_paths("f", "train", splits["train"])
    (tmp_path / "val-00000-of-00003").touch()
    with pytest.raises(ValueError, match="two sets of val shards"):
        shard_paths("f", "val", find_shards(str(tmp_path))["val"])
    (tmp_path / ".partial").mkdir()
    with pytest.raises(ValueError, match="rerun the same command to resume"):
        find_shards(str(tmp_path))


def test_another_file_system_is_read_through_its_operations():
    entry = {**{key: [] for key in ENTRY_KEYS}, "file": "train-00000-of-00001", "bytes": 17}
    header = {"splits": {"train": 1}, "classes": ["a", "b"]}
    content = {
        "ram://d/index.jsonl": "\n".join(map(json.dumps, (header, entry))).encode(),
        "ram://d/labels.txt": b"a\nb\n",
        "ram://d/train-00000-of-00001": bytes(17),
    }

    class Reader:
        def __init__(self, path, mode):
            assert mode == "rb"
            self.read = lambda: content[path]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    files = FileSystem(
        listdir=lambda folder: [path[len(folder) + 1 :] for path in content],
        exists=content.__contains__,
        size=lambda path: len(content[path]),
        open=Reader,
    )
    (path,) = shard_paths("ram://d", "train", find_shards("ram://d", files)["train"])
    index = read_index("ram://d", files)
    assert index.header == header
    assert index.framing(path, files) == ([], [])
    assert read_class_names("ram://d", files) == ("a", "b")
    content[path] = b""
    with pytest.raises(ValueError, match=r"has 0 bytes, but index\.jsonl has 17"):
        index.framing(path, files)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not enough values"),
        ("{", "Expecting"),
        ("[]", "'list' object has no attribute 'keys'"),
        ("{}", "it lacks classes, splits"),
        ('{"splits": {}, "classes": []}', "it has no shards"),
        ('{"splits": {}, "classes": []}\n{"file": "x"}', "it lacks bytes, labels, lengths, off"),
    ],
)
def test_another_file_than_an_index_is_an_error(tmp_path, text, problem):
    (tmp_path / "index.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"is not an index .*\({problem}.*: delete it"):
        read_index(str(tmp_path))


def test_without_index_and_label_file_there_is_none(tmp_path):
    assert read_index(str(tmp_path)) is None
    assert read_class_names(str(tmp_path)) is None


@pytest.mark.parametrize("kept", [5, 12, 40, -1, -4, -5])
def test_a_truncated_file_is_an_error(tmp_path, kept):
    write(tmp_path / "rows", [b"a" * 30, b"b" * 30])
    (tmp_path / "rows").write_bytes((tmp_path / "rows").read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"rows record [01] is truncated: copy or prepare"):
        scan_framing(str(tmp_path / "rows"))


@pytest.mark.parametrize("at", [46, 53, 54])  # of the second record's length, and its CRC
def test_a_damaged_file_is_an_error(tmp_path, at):
    write(tmp_path / "rows", [b"a" * 30, b"b" * 30])
    content = bytearray((tmp_path / "rows").read_bytes())
    content[at] ^= 1
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows record 1 is damaged .*or the file is not an"):
        scan_framing(str(tmp_path / "rows"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a TFRecord file", "not an uncompressed TFRecord file"),
        (bytes(64), "not an uncompressed TFRecord file"),
        (b"", "has no records"),
    ],
)
def test_another_file_than_tfrecord_is_an_error(tmp_path, content, message):
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        scan_framing(str(tmp_path / "rows"))
