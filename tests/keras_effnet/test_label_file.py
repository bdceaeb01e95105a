import pytest

from keras_effnet.label_file import format_labels, parse_labels, read_labels, write_labels


def test_labels_survive_a_round_trip(tmp_path):
    names = ("cat", "Bernese mountain dog", "dänische Dogge")
    write_labels(tmp_path / "labels.txt", names)
    assert read_labels(tmp_path / "labels.txt") == names


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfcat\ndog\n", b"cat\r\ndog\r\n", b"cat\ndog", b" cat \ndog\n\n\n"]
)
def test_editors_variants_are_read_alike(content):
    assert parse_labels(content, "labels.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is empty"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\ncat\n", "'cat' twice"),
        ("cätzchen\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_bad_files_are_named(content, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_labels(content, "my/labels.txt")
    assert "my/labels.txt" in str(error.value)


def test_format_is_one_name_a_line():
    assert format_labels(["a", "b"]) == b"a\nb\n"
