"""TFLite Metadata: input normalization and class labels inside a .tflite.

The metadata is a separate flatbuffer in the model's buffer ``TFLITE_METADATA``. The files that it
names are a zip archive behind the model. MediaPipe's ImageClassifier rejects a float32 model
without metadata, and shows no class names without it. The packages that write metadata stop at
Python 3.11, cannot be imported, or lose the weights of files whose buffers are behind the
flatbuffer. Therefore this module writes the few tables that are needed, with the field numbers of
metadata_schema.fbs (tensorflow/tflite-support).
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keras_effnet.litert import ops, runtime, tables, writer

_BUFFER = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest reader that supports all fields below
_LABELS = "labels.txt"

# Numbers of table fields, union members and enumerators in the schema.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_SUBGRAPHS, _MODEL_PARSER = 0, 1, 3, 7
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 2, 3
_TENSOR_NAME, _TENSOR_DESCRIPTION, _TENSOR_CONTENT = 0, 1, 3
_TENSOR_PROCESS, _TENSOR_STATS, _TENSOR_FILES = 4, 5, 6
_CONTENT_TYPE, _CONTENT_PROPERTIES, _IMAGE_PROPERTIES, _IMAGE_COLOR, _RGB = 0, 1, 2, 0, 1
_PROCESS_TYPE, _PROCESS_OPTIONS, _NORMALIZATION, _NORM_MEAN, _NORM_STD = 0, 1, 1, 0, 1
_STATS_MAX, _STATS_MIN = 0, 1
_FILE_NAME, _FILE_DESCRIPTION, _FILE_TYPE, _AXIS_LABELS = 0, 1, 2, 2


@dataclass(frozen=True)
class Metadata:
    """The metadata of an image classifier; ``None`` where a file has no such field."""

    name: str
    description: str
    mean: tuple[float, ...] | None  # the first op gets (pixel - mean) / std
    std: tuple[float, ...] | None
    labels: tuple[str, ...] | None  # class names, in the order of the scores
    input_name: str
    output_name: str


def attach(
    tflite_model: bytes,
    *,
    labels: Sequence[str] | None = None,
    name: str = "",
    description: str = "",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> bytes:
    """The same .tflite with metadata; existing metadata is replaced.

    Graph, signatures and scores do not change, buffers are 16-byte aligned, and equal arguments
    give equal bytes.

    Args:
        tflite_model: image classifier with one input (batch, height, width, 3), uint8 or float32,
            and one output.
        labels: class names, in the order of the scores.
        name: of the model, for display.
        description: of the model, for display.
        mean: one number, or three for RGB: the model's input is ``(pixel - mean) / std`` of pixels
            in [0, 255]. Default 0: it takes the pixels as they are, as files of this package do.
        std: likewise. Default 1.

    Raises:
        ValueError: not a complete .tflite, not an image classifier, an input type that mobile
            libraries reject, or labels that are not one name for each score.

    >>> read(attach(content, labels=["cat", "dog"])).labels  # doctest: +SKIP
    ('cat', 'dog')
    """
    tree = _tree(tflite_model)
    image, scores = _input_and_output(tree)
    if labels is not None:
        labels = _checked_labels(labels, scores)
    mean, std = _checked_normalization(mean, std)

    input_name, output_name = _names(tree, image, scores)
    table = _described(name, description, input_name, output_name, mean, std, labels, image)
    _set_buffer(tree, tables.to_bytes(table, _IDENTIFIER))
    model = writer.write(tree)
    return model if labels is None else _append_file(model, _LABELS, "\n".join(labels) + "\n")


def read(tflite_model: bytes) -> Metadata | None:
    """The :class:`Metadata` of a .tflite from any tool; None if it has none.

    Raises:
        ValueError: not a complete .tflite, or damaged metadata.
    """
    tree = _tree(tflite_model)
    entries = _entries(tree)
    if not entries:
        return None
    data = bytes(tree.buffers[entries[0].buffer].data)
    if data[4:8] != _IDENTIFIER:
        raise ValueError(
            f"the .tflite's metadata has the format {data[4:8]!r}; only {_IDENTIFIER!r} is "
            "supported. attach() replaces it"
        )
    try:
        metadata, labels_file = _parsed(data)
    except tables.UNREADABLE as error:
        raise ValueError(
            f"the .tflite's metadata is damaged ({error}); attach() replaces it"
        ) from error
    if labels_file is None:
        return metadata
    return replace(metadata, labels=tuple(_appended_file(tflite_model, labels_file).splitlines()))


def _parsed(data):
    """(Metadata without the labels, name of the labels file)."""
    model = tables.root(data)
    (subgraph, *_) = tables.children(model, _MODEL_SUBGRAPHS)
    (image, *_), (scores, *_) = (
        tables.children(subgraph, slot) for slot in (_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS)
    )
    mean = std = labels_file = None
    for unit in tables.children(image, _TENSOR_PROCESS):
        if tables.byte(unit, _PROCESS_TYPE) == _NORMALIZATION:
            options = tables.child(unit, _PROCESS_OPTIONS)
            mean, std = tables.floats(options, _NORM_MEAN), tables.floats(options, _NORM_STD)
    for file in tables.children(scores, _TENSOR_FILES):
        if labels_file is None and tables.byte(file, _FILE_TYPE) == _AXIS_LABELS:
            labels_file = tables.string(file, _FILE_NAME)
    metadata = Metadata(
        name=tables.string(model, _MODEL_NAME),
        description=tables.string(model, _MODEL_DESCRIPTION),
        mean=mean,
        std=std,
        labels=None,
        input_name=tables.string(image, _TENSOR_NAME),
        output_name=tables.string(scores, _TENSOR_NAME),
    )
    return metadata, labels_file


def _described(name, description, input_name, output_name, mean, std, labels, image):
    """The metadata as {field number: value}, see ``tables.to_bytes``."""
    uint8 = _is(image, "UINT8")  # the graph gets pixels, regardless of mean and std
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


# The model ------------------------------------------------------------------------------------


def _tree(tflite_model):
    """The object tree of a .tflite; ``ValueError`` unless the file is complete."""
    tflite_model = bytes(tflite_model)
    if tflite_model[4:8] != b"TFL3":
        raise ValueError(
            f"{len(tflite_model):,} bytes that start with {tflite_model[:8]!r} are not a .tflite, "
            "which has TFL3 at its fifth byte; give the bytes of a .tflite"
        )
    try:
        for index, (_, end) in ops.buffer_ranges(tflite_model).items():
            if end > len(tflite_model):  # the reader below would silently take what is there
                raise ValueError(f"buffer {index} ends at byte {end:,}")
        tree = runtime.flatbuffer_tools().read_model_from_bytearray(tflite_model)
        if not tree.subgraphs or not tree.buffers:
            raise ValueError("no graph")
    except tables.UNREADABLE as error:
        raise ValueError(
            f"the .tflite is truncated or damaged ({error}); it has {len(tflite_model):,} bytes: "
            "convert or download it again"
        ) from error
    return tree


def _input_and_output(tree):
    """The image and the scores tensor; ``ValueError`` unless mobile classifiers take them."""
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
    for end, tensor in (("input", inputs[0]), ("output", outputs[0])):
        if not _is(tensor, "UINT8", "FLOAT32"):
            dtype = runtime.flatbuffer_tools().type_to_name(tensor.type)
            raise ValueError(
                f"the model has an {end} of {dtype}; MediaPipe's ImageClassifier accepts UINT8 and "
                "FLOAT32. Convert it with another --preset, or with a uint8 or float32 input and "
                "output"
            )
    return inputs[0], outputs[0]


def _is(tensor, *names):
    types = runtime.flatbuffer_tools().TensorType
    return tensor.type in {getattr(types, name) for name in names}


def _shape(tensor):
    return tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))


def _names(tree, image, scores):
    """Names of image and scores in the signature, or else of their tensors."""
    tensors = tree.subgraphs[0].tensors
    for signature in tree.signatureDefs or []:
        if len(signature.inputs or []) == len(signature.outputs or []) == 1:
            (feed,), (fetch,) = signature.inputs, signature.outputs
            if tensors[feed.tensorIndex] is image and tensors[fetch.tensorIndex] is scores:
                return tables.text(feed.name), tables.text(fetch.name)
    return tables.text(image.name), tables.text(scores.name)


def _entries(tree):
    return [entry for entry in tree.metadata or [] if tables.text(entry.name) == _BUFFER]


def _set_buffer(tree, data):
    tools = runtime.flatbuffer_tools()
    entries = _entries(tree)
    if not entries:
        tree.buffers.append(tools.BufferT())
        entries = [tools.schema_fb.MetadataT()]
        entries[0].name, entries[0].buffer = _BUFFER, len(tree.buffers) - 1
        tree.metadata = [*(tree.metadata or []), *entries]
    tree.buffers[entries[0].buffer].data = data


def _append_file(tflite_model, name, text):
    # Fixed date, system and permissions, so that equal arguments give equal bytes.
    info = zipfile.ZipInfo(name)
    info.create_system = 3  # Unix
    info.external_attr = 0o644 << 16
    file = io.BytesIO(tflite_model)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(info, text.encode())
    return file.getvalue()


def _appended_file(tflite_model, name):
    try:
        with zipfile.ZipFile(io.BytesIO(tflite_model)) as archive:
            return archive.read(name).decode("utf-8-sig")
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the .tflite names a file {name!r} that is not attached to it ({error}): the file was "
            "truncated, or rewritten by a tool that drops attachments; attach() adds it again"
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
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip() or label.splitlines() != [label]:
            raise ValueError(
                f"label {index} is {label!r}; a label is one line of text that is not empty"
            )
    return labels


def _checked_normalization(mean, std):
    """[mean, std] as two lists of equal length, 1 or 3."""
    rows = []
    for argument, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        row = [default] if given is None else given
        row = list(row) if hasattr(row, "__len__") else [row]
        try:
            row = [float(value) for value in row]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{argument} is {given!r}; give one number, or three for RGB"
            ) from error
        if len(row) not in (1, 3) or not all(map(math.isfinite, row)):
            raise ValueError(f"{argument} is {given!r}; give one number, or three for RGB")
        rows.append(row)
    if min(rows[1]) <= 0:
        raise ValueError(f"std is {std!r}; give numbers above 0, pixels are divided by it")
    longest = max(map(len, rows))
    return [row * longest if len(row) == 1 else row for row in rows]
