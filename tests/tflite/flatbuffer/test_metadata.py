import io
import zipfile

import numpy as np
import pytest

from keras_effnet.litert import metadata, ops, runner, runtime, tables, writer
from tflite.flatbuffer import rewrite

LABELS = [f"class {i}" for i in range(10)]


def _packed(content):
    """The same .tflite with its buffers behind the flatbuffer, as ai-edge-quantizer writes it."""
    tools = runtime.flatbuffer_tools()
    tree = tools.read_model_from_bytearray(content)
    sizes = {i: bytes(b.data) for i, b in enumerate(tree.buffers) if b.data is not None}
    for i in sizes:
        tree.buffers[i].data, tree.buffers[i].offset, tree.buffers[i].size = None, 1, 1
    start = len(tools.convert_object_to_bytearray(tree))
    start += -start % 16
    tail = b""
    for i, data in sizes.items():
        tree.buffers[i].offset, tree.buffers[i].size = start + len(tail), len(data)
        tail += data + bytes(-len(data) % 16)
    head = bytes(tools.convert_object_to_bytearray(tree))
    return head + bytes(start - len(head)) + tail


def _changed(content, change):
    tree = runtime.flatbuffer_tools().read_model_from_bytearray(content)
    change(tree)
    return writer.write(tree)


def _scores(content, images):
    return runner.scores(content, images)


def test_what_is_attached_is_read(float_content):
    content = metadata.attach(
        float_content,
        labels=["Käse", *LABELS[1:]],
        name="Cheese",
        description="Ten kinds",
        mean=[123.5, 116.25, 103.75],
        std=58,
    )
    assert metadata.read(content) == metadata.Metadata(
        name="Cheese",
        description="Ten kinds",
        mean=(123.5, 116.25, 103.75),
        std=(58.0, 58.0, 58.0),
        labels=("Käse", *LABELS[1:]),
        input_name="images",
        output_name="scores",
    )


def test_mean_and_std_default_to_plain_pixels(float_content):
    read = metadata.read(metadata.attach(float_content))
    assert (read.mean, read.std, read.labels) == ((0.0,), (1.0,), None)


def test_a_file_without_metadata_has_none(float_content, int8_content):
    assert metadata.read(float_content) is None
    assert metadata.read(int8_content) is None


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_scores_signature_and_alignment_stay(kind, float_content, int8_content, images):
    before = {"float": float_content, "int8": int8_content}[kind]
    content = metadata.attach(before, labels=LABELS)
    want = _scores(before, images)
    np.testing.assert_array_equal(_scores(content, images), want)
    assert ops.misaligned_buffers(content) == 0
    assert ops.read_ops(content) == ops.read_ops(before)
    assert ops.quantization(content) == ops.quantization(before)
    interpreter = runtime.interpreter(content)
    assert list(interpreter.get_signature_list()) == ["serving_default"]
    feed = images[:1].astype(interpreter.get_input_details()[0]["dtype"])
    np.testing.assert_array_equal(
        interpreter.get_signature_runner()(images=feed)["scores"], want[:1]
    )


def test_equal_arguments_give_equal_bytes(int8_content):
    first = metadata.attach(int8_content, labels=LABELS, name="a")
    assert metadata.attach(int8_content, labels=LABELS, name="a") == first
    assert metadata.attach(int8_content, labels=LABELS, name="b") != first


def test_new_metadata_replaces_the_old(float_content):
    old = metadata.attach(float_content, labels=LABELS, name="old", mean=1)
    assert metadata.attach(old, name="new") == metadata.attach(float_content, name="new")
    again = metadata.attach(old, labels=LABELS[::-1])
    assert metadata.read(again).labels == tuple(LABELS[::-1])
    assert metadata.read(again).name == ""


def test_repeated_names_are_kept(float_content):
    names = (*LABELS[:9], LABELS[3])
    assert metadata.read(metadata.attach(float_content, labels=names)).labels == names


def test_the_labels_file_can_be_unzipped(float_content):
    content = metadata.attach(float_content, labels=LABELS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        (info,) = archive.infolist()
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read("labels.txt").decode() == "".join(f"{name}\n" for name in LABELS)


def test_a_file_with_attached_labels_still_runs(float_content, images):
    content = metadata.attach(float_content, labels=LABELS)
    uint8 = rewrite.uint8_input(content)
    np.testing.assert_array_equal(_scores(uint8, images), _scores(float_content, images))
    assert ops.activations(content) == ops.activations(float_content)


def test_buffers_behind_the_flatbuffer_survive(float_content, images):
    packed = _packed(float_content)
    content = metadata.attach(packed, labels=LABELS)
    np.testing.assert_array_equal(_scores(content, images), _scores(float_content, images))
    assert metadata.read(content).labels == tuple(LABELS)
    assert content == metadata.attach(float_content, labels=LABELS)


def test_metadata_behind_the_flatbuffer_is_read(float_content):
    """As a tool leaves it that packs all buffers of a file with metadata; it drops the labels."""
    packed = _packed(metadata.attach(float_content, name="packed"))
    assert metadata.read(packed).name == "packed"


def test_stats_are_the_range_of_the_models_input(float_content, int8_content):
    """The stats are in field 5 of table 0 in field 2 of table 0 in field 3 of the root."""

    def stats(content):
        tree = runtime.flatbuffer_tools().read_model_from_bytearray(content)
        (row,) = [m for m in tree.metadata if m.name == b"TFLITE_METADATA"]
        data = bytes(tree.buffers[row.buffer].data)
        assert data[4:8] == b"M001"
        image = tables.children(tables.children(tables.root(data), 3)[0], 2)[0]
        stats = tables.child(image, 5)
        return tables.floats(stats, 1), tables.floats(stats, 0)  # min, max

    assert stats(metadata.attach(float_content)) == ((0.0,), (255.0,))
    assert stats(metadata.attach(float_content, mean=127.5, std=127.5)) == ((-1.0,), (1.0,))
    assert stats(metadata.attach(int8_content, mean=127.5, std=127.5)) == ((0.0,), (255.0,))


def test_tensor_names_are_used_without_a_signature(float_content):
    def unsigned(tree):
        tree.signatureDefs = None

    read = metadata.read(metadata.attach(_changed(float_content, unsigned)))
    assert read.input_name == "serving_default_images:0"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:9], "9 labels for a model with 10 scores"),
        ([*LABELS, "more"], "11 labels for a model with 10 scores"),
        ([], "0 labels for a model with 10 scores"),
        ([*LABELS[:9], " "], "label 9 is ' '"),
        (["two\nlines", *LABELS[1:]], r"label 0 is 'two\\nlines'"),
        (["line\n", *LABELS[1:]], r"label 0 is 'line\\n'"),
        ([7, *LABELS[1:]], "label 0 is 7"),
        ("abcdefghij", "labels are 'abcdefghij'; give a list"),
    ],
)
def test_labels_are_one_distinct_name_for_each_score(float_content, labels, message):
    with pytest.raises(ValueError, match=message):
        metadata.attach(float_content, labels=labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0}, "std is 0; give numbers above 0"),
        ({"std": [1, -1, 1]}, "numbers above 0"),
        ({"mean": [1, 2]}, r"mean is \[1, 2\]; give one number, or three"),
        ({"mean": float("nan")}, "mean is nan"),
        ({"mean": "half"}, "mean is 'half'"),
    ],
)
def test_mean_and_std_are_one_number_or_three(float_content, options, message):
    with pytest.raises(ValueError, match=message):
        metadata.attach(float_content, **options)


def test_mean_and_std_may_be_numpy_arrays(float_content):
    content = metadata.attach(float_content, mean=np.float32(1.5), std=np.array([2.0, 2, 2]))
    assert metadata.read(content).mean == (1.5,) * 3


def _retyped(name, ends=("inputs", "outputs")):
    def change(tree):
        for end in ends:
            tensor = tree.subgraphs[0].tensors[getattr(tree.subgraphs[0], end)[0]]
            tensor.type = getattr(runtime.flatbuffer_tools().TensorType, name)

    return change


def _two_inputs(tree):
    tree.subgraphs[0].inputs = [*tree.subgraphs[0].inputs, tree.subgraphs[0].outputs[0]]


def _flat_input(tree):
    tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].shape = [1, 3072]


def _grey(tree):
    tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].shape = [1, 32, 32, 1]


def _two_outputs(tree):
    tree.subgraphs[0].outputs = [*tree.subgraphs[0].outputs, tree.subgraphs[0].inputs[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_retyped("INT8", ["inputs"]), "input of INT8; MediaPipe.* accepts UINT8 and FLOAT32"),
        (_retyped("INT8", ["outputs"]), "output of INT8"),
        (_retyped("FLOAT16", ["inputs"]), "input of FLOAT16"),
        (_two_inputs, r"inputs of shapes \[\(1, 32, 32, 3\), \(1, 10\)\]"),
        (_flat_input, r"inputs of shapes \[\(1, 3072\)\]"),
        (_grey, r"inputs of shapes \[\(1, 32, 32, 1\)\]"),
        (_two_outputs, "outputs of shapes"),
    ],
)
def test_models_that_mobile_classifiers_reject_are_errors(float_content, change, message):
    with pytest.raises(ValueError, match=message):
        metadata.attach(_changed(float_content, change), labels=LABELS)


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(64), b"PK\3\4" * 30])
@pytest.mark.parametrize("function", [metadata.attach, metadata.read])
def test_other_files_are_errors(function, content):
    with pytest.raises(ValueError, match=r"are not a \.tflite"):
        function(content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("function", [metadata.attach, metadata.read])
def test_a_truncated_file_is_an_error_at_every_length(function, packed, float_content):
    content = metadata.attach(float_content, name="complete")
    content = _packed(content) if packed else content
    padding = 16 if packed else 0  # of the last buffer, which carries no data
    end = len(content) - padding
    for size in {*range(8, end, 997), *range(end - 40, end)}:
        with pytest.raises(ValueError, match="truncated or damaged"):
            function(content[:size])


def test_missing_attached_labels_are_an_error(float_content):
    content = metadata.attach(float_content, labels=LABELS)
    with pytest.raises(ValueError, match=r"names a file 'labels.txt' that is not attached"):
        metadata.read(content[:-30])
    dropped = rewrite.uint8_input(content)  # drops the archive behind the flatbuffer
    with pytest.raises(ValueError, match="rewritten by a tool that drops attachments"):
        metadata.read(dropped)
    assert metadata.attach(content[:-30]) == metadata.attach(float_content)


def test_metadata_of_another_format_is_an_error(float_content):
    def damage(to):
        tree = runtime.flatbuffer_tools().read_model_from_bytearray(metadata.attach(float_content))
        (row,) = [m for m in tree.metadata if m.name == b"TFLITE_METADATA"]
        tree.buffers[row.buffer].data = to(bytes(tree.buffers[row.buffer].data))
        return writer.write(tree)

    with pytest.raises(ValueError, match="format b'M999'"):
        metadata.read(damage(lambda data: data[:4] + b"M999" + data[8:]))
    with pytest.raises(ValueError, match="metadata is damaged"):
        metadata.read(damage(lambda data: data[:40]))


def test_a_byte_order_mark_is_no_part_of_the_first_label(float_content):
    """Other tools attach a label file as it is."""
    model = metadata.attach(float_content, labels=[f"c{i}" for i in range(10)])
    text = "\ufeff" + "".join(f"c{i}\r\n" for i in range(10))
    marked = metadata._append_file(metadata.attach(float_content), "labels.txt", text)
    assert metadata._appended_file(marked, "labels.txt").splitlines()[0] == "c0"
    assert metadata.read(model).labels[0] == "c0"
