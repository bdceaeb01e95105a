"""What a phone's libraries ask of a .tflite beside its graph: what the pixels become before the
first op, and what the scores are called.

TensorFlow Lite Metadata is a flatbuffer of its own in the model's buffer ``TFLITE_METADATA``; the
files that it names are a zip archive on the model's end. MediaPipe's ImageClassifier refuses a
float32 model without it, and has no names for the classes of any. The packages that write it stop
at Python 3.11, cannot be imported, or lose the weights of files whose buffers stand behind the
flatbuffer; hence these few tables, field numbers after metadata_schema.fbs (tensorflow/
tflite-support).
"""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace

import flatbuffers
from flatbuffers.table import Table

from tflite.flatbuffer import rewrite

_BUFFER = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest reader that knows all fields below
_LABELS = "labels.txt"

# Tables' fields, unions' members and enumerators that are used, by their numbers in the schema.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_SUBGRAPHS, _MODEL_PARSER = 0, 1, 3, 7
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 2, 3
_TENSOR_NAME, _TENSOR_DESCRIPTION, _TENSOR_CONTENT = 0, 1, 3
_TENSOR_PROCESS, _TENSOR_STATS, _TENSOR_FILES = 4, 5, 6
_CONTENT_TYPE, _CONTENT_PROPERTIES, _IMAGE_PROPERTIES, _IMAGE_COLOR, _RGB = 0, 1, 2, 0, 1
_PROCESS_TYPE, _PROCESS_OPTIONS, _NORMALIZATION, _NORM_MEAN, _NORM_STD = 0, 1, 1, 0, 1
_STATS_MAX, _STATS_MIN = 0, 1
_FILE_NAME, _FILE_DESCRIPTION, _FILE_TYPE, _AXIS_LABELS = 0, 1, 2, 2

# What reading a flatbuffer that is not one, or is cut off, ends in.
_UNREADABLE = (struct.error, ValueError, IndexError, TypeError, AttributeError, MemoryError)


@dataclass(frozen=True)
class Metadata:
    """What a .tflite says of itself; ``None`` for what it does not say."""

    name: str
    description: str
    mean: "tuple[float, ...] | None"  # (pixel - mean) / std is what the first op gets
    std: "tuple[float, ...] | None"
    labels: "tuple[str, ...] | None"  # of the scores, in order
    input_name: str
    output_name: str


def attach(content, *, labels=None, name="", description="", mean=None, std=None):
    """Bytes of a .tflite, the same with metadata; what metadata it had is replaced.

    Graph, signatures and answers stay, buffers are 16-byte aligned, and the same arguments give the
    same bytes.

    Args:
        content: .tflite of an image classifier, bytes; one input (batch, height, width, 3), uint8
            or float32, and one output.
        labels: names of the scores in order, one for each.
        name: of the model, for people.
        description: of the model, for people.
        mean: one number, or three for RGB: the model's input is ``(pixel - mean) / std`` of pixels
            in [0, 255]. Default 0: it takes the pixels as they are, as files of this package do.
        std: likewise. Default 1.

    Raises:
        ValueError: no .tflite, or not all of it; no image classifier; an input that phones'
            libraries refuse; labels that are not one distinct name for each score.

    >>> read(attach(content, labels=["cat", "dog"])).labels  # doctest: +SKIP
    ('cat', 'dog')
    """
    tree = _tree(content)
    image, scores = _ends(tree)
    if labels is not None:
        labels = _checked_labels(labels, scores)
    mean, std = _checked_normalization(mean, std)

    input_name, output_name = _names(tree, image, scores)
    table = _described(name, description, input_name, output_name, mean, std, labels, image)
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, table), file_identifier=_IDENTIFIER)
    _set_buffer(tree, bytes(builder.Output()))
    model = rewrite.write(tree)
    return model if labels is None else _with_file(model, _LABELS, "\n".join(labels) + "\n")


def read(content):
    """The :class:`Metadata` of a .tflite in bytes, whoever wrote it; None if it has none.

    Raises ``ValueError`` for bytes that are no .tflite, or not all of it.
    """
    tree = _tree(content)
    found = [m for m in tree.metadata or [] if _text(m.name) == _BUFFER]
    if not found:
        return None
    data = bytes(tree.buffers[found[0].buffer].data)
    if data[4:8] != _IDENTIFIER:
        raise ValueError(
            f"the .tflite's metadata is of format {data[4:8]!r}; only {_IDENTIFIER!r} is known. "
            "attach() renews it"
        )
    try:
        metadata, labels_file = _parsed(data)
    except _UNREADABLE as error:
        raise ValueError(
            f"the .tflite's metadata is damaged ({error}); attach() renews it"
        ) from error
    if labels_file is None:
        return metadata
    return replace(metadata, labels=tuple(_file(content, labels_file).splitlines()))


def _parsed(data):
    """(Metadata without the labels, name of the file that has them)."""
    model = Table(data, struct.unpack_from("<I", data)[0])
    (subgraph, *_) = _tables(model, _MODEL_SUBGRAPHS)
    (image, *_), (scores, *_) = (
        _tables(subgraph, slot) for slot in (_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS)
    )
    mean = std = labels_file = None
    for unit in _tables(image, _TENSOR_PROCESS):
        if _byte(unit, _PROCESS_TYPE) == _NORMALIZATION:
            options = _table(unit, _PROCESS_OPTIONS)
            mean, std = _floats(options, _NORM_MEAN), _floats(options, _NORM_STD)
    for file in _tables(scores, _TENSOR_FILES):
        if labels_file is None and _byte(file, _FILE_TYPE) == _AXIS_LABELS:
            labels_file = _string(file, _FILE_NAME)
    metadata = Metadata(
        name=_string(model, _MODEL_NAME),
        description=_string(model, _MODEL_DESCRIPTION),
        mean=mean,
        std=std,
        labels=None,
        input_name=_string(image, _TENSOR_NAME),
        output_name=_string(scores, _TENSOR_NAME),
    )
    return metadata, labels_file


def _described(name, description, input_name, output_name, mean, std, labels, image):
    """The whole metadata as a table of fields: {field number: value}, see :func:`_write`."""
    uint8 = _is(image, "UINT8")  # quantized by the graph itself: it gets pixels, whatever the mean
    low, high = (
        [float(pixel) if uint8 else (pixel - m) / s for m, s in zip(mean, std)]
        for pixel in (0, 255)
    )
    meaning = "RGB, (pixel - mean) / std of pixels in [0, 255], stretched to the input's size"
    options = {_NORM_MEAN: mean, _NORM_STD: std}
    feed = {
        _TENSOR_NAME: input_name,
        _TENSOR_DESCRIPTION: meaning,
        _TENSOR_CONTENT: {
            _CONTENT_TYPE: _IMAGE_PROPERTIES,
            _CONTENT_PROPERTIES: {_IMAGE_COLOR: _RGB},
        },
        _TENSOR_PROCESS: [{_PROCESS_TYPE: _NORMALIZATION, _PROCESS_OPTIONS: options}],
        _TENSOR_STATS: {_STATS_MAX: high, _STATS_MIN: low},
    }
    fetch = {_TENSOR_NAME: output_name, _TENSOR_DESCRIPTION: "one score for each class"}
    if labels is not None:
        file = {_FILE_NAME: _LABELS, _FILE_DESCRIPTION: "names of the scores, in order"}
        fetch[_TENSOR_FILES] = [{**file, _FILE_TYPE: _AXIS_LABELS}]
    return {
        _MODEL_NAME: name,
        _MODEL_DESCRIPTION: description,
        _MODEL_SUBGRAPHS: [{_SUBGRAPH_INPUTS: [feed], _SUBGRAPH_OUTPUTS: [fetch]}],
        _MODEL_PARSER: _PARSER,
    }


# Flatbuffers, without generated code ----------------------------------------------------------


def _write(builder, value):
    """Writes a dict as a table, a list as a vector of float32 or of tables, a string as a string;
    an int is a byte in its table. Returns the offset.
    """
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        # Children first: a flatbuffer is written from its end, and nothing in the middle of a table
        fields = {s: v if isinstance(v, int) else _write(builder, v) for s, v in value.items()}
        builder.StartObject(max(fields) + 1)
        for slot, field in fields.items():
            if isinstance(value[slot], int):
                builder.PrependUint8Slot(slot, field, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, field, 0)
        return builder.EndObject()
    floats = isinstance(value[0], float)
    items = value if floats else [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependFloat32(item) if floats else builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


def _field(table, slot):
    """Where a field stands in a table's bytes; None if it is left out."""
    offset = table.Offset(4 + 2 * slot)
    return table.Pos + offset if offset else None


def _byte(table, slot):
    at = _field(table, slot)
    return 0 if at is None else table.Bytes[at]


def _string(table, slot):
    at = _field(table, slot)
    return "" if at is None else _text(table.String(at))


def _table(table, slot):
    at = _field(table, slot)
    return Table(table.Bytes, table.Indirect(at))


def _items(table, slot):
    """Where the 4-byte items of a vector stand."""
    at = _field(table, slot)
    if at is None:
        return []
    offset = at - table.Pos
    start = table.Vector(offset)
    return [start + 4 * i for i in range(table.VectorLen(offset))]


def _floats(table, slot):
    return tuple(struct.unpack_from("<f", table.Bytes, at)[0] for at in _items(table, slot))


def _tables(table, slot):
    return [Table(table.Bytes, table.Indirect(at)) for at in _items(table, slot)]


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


# The model ------------------------------------------------------------------------------------


def _tree(content):
    """The object tree of a whole .tflite; ``ValueError`` for anything else."""
    content = bytes(content)
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"{len(content):,} bytes that start with {content[:8]!r} are no .tflite, which has "
            "TFL3 at its fifth byte; give the bytes of a .tflite"
        )
    try:
        _check_buffers(content)
        tree = rewrite.flatbuffer_tools().read_model_from_bytearray(content)
        if not tree.subgraphs or not tree.buffers:
            raise ValueError("no graph")
    except _UNREADABLE as error:
        raise ValueError(
            f"the .tflite is cut off or damaged ({error}); it has {len(content):,} bytes: convert "
            "or download it again"
        ) from error
    return tree


def _check_buffers(content):
    """Python's reader takes what is there of a buffer that is cut off, and says nothing."""
    model = rewrite.flatbuffer_tools().Model.GetRootAs(content, 0)
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        end = buffer.Offset() + buffer.Size()
        if not buffer.Offset() and buffer.DataLength():
            end = buffer._tab.Vector(buffer._tab.Offset(4)) + buffer.DataLength()
        if end > len(content):
            raise ValueError(f"buffer {index} ends at byte {end:,}")


def _ends(tree):
    """The image's and the scores' tensor; ``ValueError`` unless phones' classifiers take them."""
    subgraph = tree.subgraphs[0]
    inputs, outputs = (
        [subgraph.tensors[i] for i in indices] for indices in (subgraph.inputs, subgraph.outputs)
    )
    shapes = [_shape(tensor) for tensor in inputs]
    if len(inputs) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise ValueError(
            f"the model has inputs of shapes {shapes}; an image classifier has one, (1, height, "
            "width, 3)"
        )
    if len(outputs) != 1 or not _shape(outputs[0]):
        raise ValueError(
            f"the model has outputs of shapes {[_shape(t) for t in outputs]}; an image classifier "
            "has one, (1, classes)"
        )
    for what, tensor in (("takes", inputs[0]), ("gives", outputs[0])):
        if not _is(tensor, "UINT8", "FLOAT32"):
            dtype = rewrite.flatbuffer_tools().type_to_name(tensor.type)
            raise ValueError(
                f"the model {what} {dtype}; MediaPipe's ImageClassifier accepts UINT8 and FLOAT32. "
                "Convert it with another --preset, or again with uint8 or float32 at both ends"
            )
    return inputs[0], outputs[0]


def _is(tensor, *names):
    types = rewrite.flatbuffer_tools().TensorType
    return tensor.type in {getattr(types, name) for name in names}


def _shape(tensor):
    return tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))


def _names(tree, image, scores):
    """What the named signature calls the image and the scores, or else the tensors' own names."""
    tensors = tree.subgraphs[0].tensors
    for signature in tree.signatureDefs or []:
        if len(signature.inputs or []) == len(signature.outputs or []) == 1:
            (feed,), (fetch,) = signature.inputs, signature.outputs
            if tensors[feed.tensorIndex] is image and tensors[fetch.tensorIndex] is scores:
                return _text(feed.name), _text(fetch.name)
    return _text(image.name), _text(scores.name)


def _set_buffer(tree, data):
    tools = rewrite.flatbuffer_tools()
    found = [m for m in tree.metadata or [] if _text(m.name) == _BUFFER]
    if not found:
        tree.buffers.append(tools.BufferT())
        found = [tools.schema_fb.MetadataT()]
        found[0].name, found[0].buffer = _BUFFER, len(tree.buffers) - 1
        tree.metadata = [*(tree.metadata or []), *found]
    tree.buffers[found[0].buffer].data = data


def _with_file(model, name, text):
    info = zipfile.ZipInfo(name)  # of 1980: the time of writing would make two runs differ
    info.create_system = 3  # as would the system: Unix, whose permissions follow
    info.external_attr = 0o644 << 16
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(info, text.encode())
    return file.getvalue()


def _file(content, name):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(name).decode()
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the .tflite names a file {name!r} that is not on its end ({error}): it was cut off, "
            "or rewritten by a tool that drops it; attach() adds it again"
        ) from error


# Arguments ------------------------------------------------------------------------------------


def _checked_labels(labels, scores):
    if isinstance(labels, (str, bytes)):
        raise ValueError(f"labels are {labels!r}; give a list of names, not one string")
    labels = list(labels)
    classes = _shape(scores)[-1]
    if len(labels) != classes:
        raise ValueError(
            f"{len(labels)} labels for a model with {classes} scores: give one for each, in the "
            "order of training"
        )
    seen = {}
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip() or label.splitlines() != [label]:
            raise ValueError(
                f"label {index} is {label!r}; a label is one line of text that is not empty"
            )
        if label in seen:
            raise ValueError(
                f"labels {seen[label]} and {index} are both {label!r}: give each class its own name"
            )
        seen[label] = index
    return labels


def _checked_normalization(mean, std):
    """(mean, std) as two lists of one length, 1 or 3."""
    rows = []
    for what, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        row = [default] if given is None else given
        row = list(row) if hasattr(row, "__len__") else [row]
        try:
            row = [float(value) for value in row]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} is {given!r}; give one number, or three for RGB") from error
        if len(row) not in (1, 3) or not all(map(math.isfinite, row)):
            raise ValueError(f"{what} is {given!r}; give one number, or three for RGB")
        rows.append(row)
    if min(rows[1]) <= 0:
        raise ValueError(f"std is {std!r}; pixels are divided by it: give numbers above 0")
    longest = max(map(len, rows))
    return [row * longest if len(row) == 1 else row for row in rows]
