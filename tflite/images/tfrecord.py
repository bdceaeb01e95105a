"""Encoded images of TFRecord files, any of them by its number: folders of shards as ImageNet's and
as ``effnet-train prepare`` writes them, and TensorFlow Datasets. No TensorFlow reads them.

A record is its length (uint64), the length's checksum, its bytes (a ``tf.train.Example``) and their
checksum. What lies between two records that are wanted is skipped, not read. The bytes' own
checksums are not verified here: ``effnet-train prepare --check`` does that.
"""

import collections
import json
import os
import re
import struct
from dataclasses import dataclass

import numpy as np

IMAGE_KEY, LABEL_KEY = "image/encoded", "image/class/label"
_HEADER = struct.Struct("<QI")  # length, checksum
_FRAMING = _HEADER.size + 4  # bytes around a record
_NAME = re.compile(r"([A-Za-z]\w*)-(\d{5})-of-(\d{5})")
_INDEX, _LABELS, _PARTIAL = "index.jsonl", "labels.txt", ".partial"  # effnet-train prepare's
_TFDS = "tfds:"


@dataclass(frozen=True, eq=False)
class RecordSet:
    """Where each record of some files is, and what to look for in it."""

    name: str  # for messages: "shards train", "tfds:cifar10/test"
    paths: "tuple[str, ...]"
    files: np.ndarray  # int32 (records,), of paths
    numbers: np.ndarray  # int64 (records,), records before it in its file
    offsets: np.ndarray  # int64 (records,), bytes before it in its file
    lengths: np.ndarray  # int64 (records,), bytes without the framing
    image_key: str
    label_key: str
    first_label: int  # what labels count from
    class_names: "tuple[str, ...] | None"

    def __len__(self):
        return len(self.offsets)

    def where(self, i):
        """The file's name and the number in it of record i."""
        return f"{os.path.basename(self.paths[self.files[i]])} record {self.numbers[i]}"

    def read(self, i):
        """(encoded image, label) of record i: bytes, and a number from 0 or None for several.

        Raises ``ValueError`` for a record that is damaged or has no such image and label.
        """
        path, length = self.paths[self.files[i]], int(self.lengths[i])
        where = f"{path} record {self.numbers[i]}"
        with open(path, "rb", buffering=0) as file:
            file.seek(int(self.offsets[i]))
            framed = file.read(_HEADER.size + length)
        if len(framed) < _HEADER.size + length or _length(framed, where) != length:
            raise ValueError(f"{where} is not where it was: copy or prepare the file again")
        try:
            features = example_features(framed[_HEADER.size :])
        except ValueError as error:
            raise ValueError(f"{where} is no tf.train.Example: {error}") from error
        kind, images = features.get(self.image_key, ("", ()))
        if kind != "bytes" or len(images) != 1:
            raise ValueError(f"{where} has no {self.image_key!r} (bytes), but {_told(features)}")
        kind, labels = features.get(self.label_key, ("", ()))
        if kind != "int64" or not labels:
            raise ValueError(f"{where} has no {self.label_key!r} (int64), but {_told(features)}")
        if min(labels) < self.first_label:
            raise ValueError(
                f"{where} has the label {min(labels)}, but labels count from {self.first_label} in "
                f"{self.label_key!r}"
            )
        return images[0], labels[0] - self.first_label if len(labels) == 1 else None


def _told(features):
    return ", ".join(f"{name!r} ({kind or 'empty'})" for name, (kind, _) in features.items()) or "-"


def exists(source):
    """Whether there is something that ``load_images`` could try: a path, a set of shards in a
    folder (FOLDER/validation), or tfds:NAME, which is not looked up.
    """
    return source.startswith(_TFDS) or os.path.exists(source) or bool(_set_of(source)[1])


def open_records(source):
    """The :class:`RecordSet` of a folder of shards (its ``train`` set, or the only one), of
    FOLDER/SET, or of tfds:NAME[/SPLIT]; None for what is none of them.

    Raises ``ValueError`` for sets that lack shards, and for files that are truncated or damaged.
    """
    if source.startswith(_TFDS):
        return _from_tfds(source)
    if os.path.isfile(source):
        return None
    folder, sets, name = _set_of(source)
    if not sets:
        return None
    if name is None:
        name = "train" if "train" in sets else next(iter(sets))
        if name != "train" and len(sets) > 1:
            raise ValueError(
                f"{folder} has the sets {', '.join(sets)}: give one of them, e.g. "
                f"{os.path.join(folder, name)}"
            )
    if name not in sets:
        raise ValueError(f"{folder} has no {name} shards, but {', '.join(sets)} ones")
    paths = _complete(folder, name, sets[name])
    indexed = _read_index(folder)
    framings = [_indexed(path, indexed) if indexed else _framing(path) for path in paths]
    return _set(f"{folder} {name}", paths, framings, IMAGE_KEY, LABEL_KEY, 1, _read_names(folder))


def _set(name, paths, framings, image_key, label_key, first_label, class_names):
    sizes = [len(offsets) for offsets, _ in framings]
    offsets, lengths = (np.concatenate(own).astype(np.int64) for own in zip(*framings))
    return RecordSet(
        name,
        tuple(paths),
        np.repeat(np.arange(len(paths), dtype=np.int32), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        offsets,
        lengths,
        image_key,
        label_key,
        first_label,
        class_names,
    )


def _set_of(source):
    """(folder, {set: {number of shards: {number: path}}} in it, set that is asked for or None)."""
    folder, name = source, None
    if not os.path.isdir(source):
        folder, name = os.path.split(source.rstrip("/" + os.sep))
        folder = folder or os.curdir
    if not os.path.isdir(folder):
        return folder, {}, name
    inside = os.listdir(folder)
    if _PARTIAL in inside and _INDEX not in inside:
        raise ValueError(
            f"{folder} is what an `effnet-train prepare` left that did not finish: give the same "
            "command again, and it goes on"
        )
    sets = collections.defaultdict(lambda: collections.defaultdict(dict))
    for file in sorted(inside):
        if match := _NAME.fullmatch(file):
            part, number, of = match.groups()
            sets[part][int(of)][int(number)] = os.path.join(folder, file)
    return folder, sets, name


def _complete(folder, name, found):
    """The paths of a set's shards, if all are there."""
    if len(found) > 1:
        raise ValueError(f"{folder} has two sets of {name} shards: keep one of them there")
    (of, paths) = next(iter(found.items()))
    missing = [f"{name}-{n:05}-of-{of:05}" for n in range(of) if n not in paths]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {of} {name} shards ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): copy or prepare them again"
        )
    return [paths[n] for n in range(of)]


def _read_names(folder):
    """The lines of labels.txt; None without."""
    path = os.path.join(folder, _LABELS)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            names = tuple(file.read().splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a UTF-8 text file") from error
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"{path} has a name twice or an empty line: it needs a class a line")
    return names


def _read_index(folder):
    """{file name: (bytes, offsets, lengths)} of what prepare wrote beside its shards; or None.

    It saves a seek a record, where nothing is known of the files.
    """
    path = os.path.join(folder, _INDEX)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            next(file)  # the header
            entries = [json.loads(line) for line in file]
        return {e["file"]: (e["bytes"], e["offsets"], e["lengths"]) for e in entries}
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(
            f"{path} is no index of `effnet-train prepare` ({error!r}): delete it to read what is "
            "there"
        ) from error


def _indexed(path, index):
    file, size = os.path.basename(path), os.path.getsize(path)
    if file not in index or index[file][0] != size:
        said = f"{index[file][0]:,}" if file in index else "nothing of it"
        raise ValueError(
            f"{path} has {size:,} bytes, but {_INDEX} says {said}: copy it again, or delete "
            f"{_INDEX} to read what is there"
        )
    return index[file][1:]


def _framing(path):
    """(offsets, lengths) of a file's records, by seeking from one to the next."""
    size, at, offsets, lengths = os.path.getsize(path), 0, [], []
    with open(path, "rb", buffering=0) as file:
        while at < size:
            where = f"{path} record {len(offsets)}"
            file.seek(at)
            length = _length(file.read(_HEADER.size), where)
            offsets.append(at)
            lengths.append(length)
            at += length + _FRAMING
            if at > size:
                raise ValueError(_truncated(where))
    if not offsets:
        raise ValueError(f"{path} has no records: copy or prepare it again")
    return offsets, lengths


def _length(header, where):
    if len(header) < _HEADER.size:
        raise ValueError(_truncated(where))
    length, checksum = _HEADER.unpack_from(header)
    if checksum != masked_crc32c(header[:8]):
        raise ValueError(
            f"{where} is damaged (its length's checksum is wrong), or this is no TFRecord file "
            "without compression: copy or prepare it again"
        )
    return length


def _truncated(where):
    return f"{where} is truncated: copy or prepare the file again"


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's, reflected
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def masked_crc32c(data):
    """TFRecord's checksum of bytes; a few of them, for this is plain Python.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_KINDS = {1: "bytes", 2: "float", 3: "int64"}  # of a tf.train.Feature
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def example_features(record):
    """{name: (kind, values)} of the bytes of a tf.train.Example: "bytes" with a list of bytes,
    "int64" with a list of ints, "float", whose values are not read, or "" for an empty feature.

    Raises ``ValueError`` for other bytes.
    """
    features = {}
    try:
        for inner in _parts(memoryview(record), 1):
            for entry in _parts(inner, 1):
                name = b"".join(_parts(entry, 1)[-1:]).decode()
                features[name] = _feature(b"".join(_parts(entry, 2)[-1:]))
    except IndexError as error:
        raise ValueError("it ends too early") from error
    return features


def _feature(data):
    kind, values = "", []
    for number, wire, content in _fields(memoryview(data)):
        if number not in _KINDS or wire != _BYTES:
            continue
        if kind != _KINDS[number]:
            kind, values = _KINDS[number], []
        if kind == "bytes":
            values += [bytes(value) for value in _parts(content, 1)]
        elif kind == "int64":
            values += _int64s(content)
    return kind, values


def _int64s(data):
    found = []
    for number, wire, value in _fields(data):
        if number == 1 and wire == _VARINT:
            found.append(value)
        elif number == 1 and wire == _BYTES:  # packed
            at = 0
            while at < len(value):
                one, at = _varint(value, at)
                found.append(one)
    return [value - (1 << 64) if value >> 63 else value for value in found]


def _parts(data, wanted):
    """The bytes of each occurrence of a field that has bytes."""
    return [value for number, wire, value in _fields(data) if (number, wire) == (wanted, _BYTES)]


def _fields(data):
    """(field number, wire type, value) of a protobuf message: an int, bytes, or None (fixed)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire, value = tag & 7, None
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        elif wire == _BYTES:
            size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise IndexError
        yield tag >> 3, wire, value


def _varint(data, at):
    """(value, where it ends); IndexError where the data end before."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a number of more than 64 bits")


def _from_tfds(source):
    """Its own TFRecord files, read where they are: ``as_numpy`` would decode or at least read all
    images before the last one that is wanted.
    """
    name = source[len(_TFDS) :]
    datasets, builder, split = _find_builder(source, name)
    keys, features = builder.info.supervised_keys, builder.info.features
    if (
        not keys
        or len(keys) != 2
        or not all(isinstance(key, str) for key in keys)
        or not isinstance(features[keys[0]], datasets.features.Image)
        or np.dtype(features[keys[0]].np_dtype) != np.uint8
        or not isinstance(features[keys[1]], datasets.features.ClassLabel)
    ):
        raise ValueError(
            f"{source} is no set of 8-bit images with one class each: it has "
            f"{', '.join(features)}, supervised keys {keys}"
        )
    try:
        builder.download_and_prepare()
    except ImportError as error:  # its own lazy imports: importlib_resources, scipy, ...
        raise ValueError(f"{source} needs {error.name}, too: pip install {error.name}") from error
    names = builder.info.features[keys[1]].names  # some are known only now
    splits, form = builder.info.splits, builder.info.file_format.value
    if split not in splits:
        raise ValueError(f"{source} has no split {split!r}, but {', '.join(splits)}")
    if form != "tfrecord":
        raise ValueError(
            f"{source} is kept as {form}; keep it as tfrecord: tensorflow_datasets.builder("
            f"{builder.name!r}, file_format='tfrecord').download_and_prepare()"
        )
    paths = [os.fspath(path) for path in splits[split].filepaths]
    whole = name if name.endswith(f"/{split}") else f"{name}/{split}"
    names = None if names is None else tuple(names)
    return _set(f"{_TFDS}{whole}", paths, [_framing(path) for path in paths], *keys, 0, names)


def _find_builder(source, name):
    """(tensorflow_datasets, builder, split) of NAME or NAME/CONFIG, with /SPLIT or without."""
    try:
        import tensorflow_datasets  # here, for it is large and few need it
    except ImportError as error:
        raise ValueError(
            f"images {source!r} need tensorflow_datasets: pip install tensorflow-datasets"
        ) from error
    head, slash, tail = name.rpartition("/")
    candidates = [(name, "train")] + ([(head, tail)] if slash else [])
    for own, split in candidates:
        try:
            return tensorflow_datasets, tensorflow_datasets.builder(own), split
        except ValueError as error:  # knows no such set, or no such configuration of it
            why = error
    raise ValueError(f"tensorflow_datasets knows no data set {candidates[-1][0]!r}") from why
