"""Reads and writes small flatbuffers by field number, without generated code."""

from __future__ import annotations

import struct

import flatbuffers
from flatbuffers.table import Table

# Exceptions that reading a truncated or damaged flatbuffer raises.
UNREADABLE = (struct.error, ValueError, IndexError, TypeError, AttributeError, MemoryError)


def to_bytes(table: dict, identifier: bytes) -> bytes:
    """A flatbuffer with a root table given as {field number: value}.

    A dict is written as a table, a list as a vector of float32 or of tables, a string as a string,
    an int as a byte.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, table), file_identifier=identifier)
    return bytes(builder.Output())


def root(data: bytes) -> Table:
    """The root table of a flatbuffer."""
    return Table(data, struct.unpack_from("<I", data)[0])


def byte(table: Table, field: int) -> int:
    """The value of a byte field; 0 if it is missing."""
    position = _position(table, field)
    return 0 if position is None else table.Bytes[position]


def string(table: Table, field: int) -> str:
    """The value of a string field; "" if it is missing."""
    position = _position(table, field)
    return "" if position is None else text(table.String(position))


def child(table: Table, field: int) -> Table:
    """The table in a field."""
    return Table(table.Bytes, table.Indirect(_position(table, field)))


def floats(table: Table, field: int) -> tuple[float, ...]:
    """The values of a float32 vector; () if it is missing."""
    return tuple(struct.unpack_from("<f", table.Bytes, at)[0] for at in _items(table, field))


def children(table: Table, field: int) -> list[Table]:
    """The tables in a vector; [] if it is missing."""
    return [Table(table.Bytes, table.Indirect(at)) for at in _items(table, field)]


def text(value: bytes | str) -> str:
    """A string of the object API, which is bytes or str."""
    return value.decode() if isinstance(value, bytes) else value


def _write(builder, value):
    """Writes a value; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        # Children first: a flatbuffer is written from its end, and tables cannot be nested.
        fields = {n: v if isinstance(v, int) else _write(builder, v) for n, v in value.items()}
        builder.StartObject(max(fields) + 1)
        for number, field in fields.items():
            if isinstance(value[number], int):
                builder.PrependUint8Slot(number, field, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(number, field, 0)
        return builder.EndObject()
    of_floats = isinstance(value[0], float)
    items = value if of_floats else [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependFloat32(item) if of_floats else builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


def _position(table, field):
    """Position of a field in the bytes; None if it is missing."""
    offset = table.Offset(4 + 2 * field)
    return table.Pos + offset if offset else None


def _items(table, field):
    """Positions of the 4-byte items of a vector."""
    position = _position(table, field)
    if position is None:
        return []
    offset = position - table.Pos
    start = table.Vector(offset)
    return [start + 4 * i for i in range(table.VectorLen(offset))]
