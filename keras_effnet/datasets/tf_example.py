"""Reads a serialized ``tf.train.Example`` without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator

_KINDS = {1: "bytes", 2: "float", 3: "int64"}  # of a tf.train.Feature
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def parse_example(record: bytes) -> dict[str, tuple[str, list]]:
    """{name: (kind, values)} of a serialized ``tf.train.Example``.

    The kind is "bytes" (values: bytes), "int64" (ints), "float" (values are not read) or "" for an
    empty feature. Raises ``ValueError`` for other bytes.
    """
    features = {}
    try:
        for feature_map in _messages(memoryview(record), 1):
            for entry in _messages(feature_map, 1):
                name = b"".join(_messages(entry, 1)[-1:]).decode()
                features[name] = _feature(b"".join(_messages(entry, 2)[-1:]))
    except IndexError as error:
        raise ValueError("unexpected end of the message") from error
    return features


def _feature(data):
    kind, values = "", []
    for number, wire_type, content in _fields(memoryview(data)):
        if number not in _KINDS or wire_type != _BYTES:
            continue
        if kind != _KINDS[number]:
            kind, values = _KINDS[number], []
        if kind == "bytes":
            values += [bytes(value) for value in _messages(content, 1)]
        elif kind == "int64":
            values += _int64s(content)
    return kind, values


def _int64s(data):
    values = []
    for number, wire_type, content in _fields(data):
        if number == 1 and wire_type == _VARINT:
            values.append(content)
        elif number == 1 and wire_type == _BYTES:  # packed
            position = 0
            while position < len(content):
                value, position = _varint(content, position)
                values.append(value)
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _messages(data, number):
    """The bytes of each occurrence of the length-delimited field `number`."""
    return [value for n, wire_type, value in _fields(data) if (n, wire_type) == (number, _BYTES)]


def _fields(data) -> Iterator[tuple]:
    """(field number, wire type, value) of a message; values are ints, bytes, or None (fixed)."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire_type, value = tag & 7, None
        if wire_type == _VARINT:
            value, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _BYTES:
            size, position = _varint(data, position)
            value = data[position : position + size]
            position += size
        else:
            raise ValueError(f"wire type {wire_type} is not supported")
        if position > len(data):
            raise IndexError
        yield tag >> 3, wire_type, value


def _varint(data, position):
    """(value, end position); ``IndexError`` if the data end first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, position
    raise ValueError("a varint has more than 64 bits")
