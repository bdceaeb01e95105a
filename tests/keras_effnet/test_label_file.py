import pytest

from keras_effnet.label_file import (
    class_index,
    format_labels,
    parse_labels,
    read_labels,
    write_labels,
)
from keras_effnet.labels import imagenet_classes


def test_labels_survive_a_round_trip(tmp_path):
    names = ("cat", "Bernese mountain dog", "dänische Dogge")
    write_labels(tmp_path / "labels.txt", names)
    assert read_labels(tmp_path / "labels.txt") == names


def test_only_line_ends_separate_names(tmp_path):
    names = ("a\u2028b", "c\x85d", "e\x0cf")
    write_labels(tmp_path / "labels.txt", names)
    assert read_labels(tmp_path / "labels.txt") == names


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfcat\ndog\n", b"cat\r\ndog\r\n", b"cat\ndog", b" cat \ndog\n\n\n",
     "cat\r\ndog\r\n".encode("utf-16")],
)  # fmt: skip
def test_editors_variants_are_read_alike(content):
    assert parse_labels(content, "labels.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is empty"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        ("cätzchen\n".encode("latin-1"), "not UTF-8"),
        ("cat\ndog\n".encode("utf-32"), "bytes that are no text; save it as UTF-8"),
        (b"cat\ndog\n\0\0", "bytes that are no text; save it as UTF-8"),
        (b'["cat", "dog"]', "is JSON; write one class name per line"),
        (b'{\n "0": "cat",\n "1": "dog"\n}\n', "is JSON; write one class name per line"),
    ],
)
def test_bad_files_are_named(content, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_labels(content, "my/labels.txt")
    assert "my/labels.txt" in str(error.value)


def test_accents_are_those_of_class_folders():
    decomposed = "cafe\N{COMBINING ACUTE ACCENT}\n"  # as macOS writes file names
    assert parse_labels(decomposed.encode(), "labels.txt") == (
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    )


def test_brackets_are_no_json():
    assert parse_labels(b"[cat]\n[dog]\n", "labels.txt") == ("[cat]", "[dog]")


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"label file 'no\.txt' does not exist; give a text file"):
        read_labels("no.txt")


def test_imagenets_own_names_are_a_label_file(tmp_path):
    write_labels(tmp_path / "labels.txt", imagenet_classes())
    assert read_labels(tmp_path / "labels.txt") == imagenet_classes()


def test_a_name_tells_its_class_only_if_it_is_unique():
    assert class_index("cat", ["owl", "cat"]) == 1
    with pytest.raises(ValueError, match="'crane' is the name of the classes 134 and 517"):
        class_index("crane", imagenet_classes())
    with pytest.raises(ValueError, match=r"Unknown class 'cta'\. Did you mean 'cat'"):
        class_index("cta", ["owl", "cat"])


def test_format_is_one_name_a_line():
    assert format_labels(["a", "b"]) == b"a\nb\n"
