import json
import os

import pytest

from keras_effnet.html_elements import document
from keras_effnet.model_card.card import GENERATOR
from keras_effnet.model_card.markdown import MARK
from tflite.report import own_files


@pytest.mark.parametrize(
    ("name", "ours", "foreign"),
    [
        ("m.tflite", b"\0\0\0\0TFL3", b"PK\3\4 a Keras file"),
        (
            "m.html",
            document("t", "b", own_files.GENERATOR).encode(),
            b"<html>my page</html>",
        ),
        ("m.json", json.dumps({"preset": "int8"}).encode(), b'{"my": "settings"}'),
        ("m.json", json.dumps({"report": {}}).encode(), b"not JSON"),
        ("m.card.md", f"# B0\n\n{MARK}\n".encode(), b"# My card"),
        ("m.card.json", json.dumps({"generator": GENERATOR}).encode(), b'{"report": {}}'),
        ("m.labels.txt", b"cat\ndog\n", b"\xff\xfe\0"),
    ],
)
def test_only_files_of_this_package_are_overwritten(tmp_path, name, ours, foreign):
    path = tmp_path / name
    assert own_files.check_replaceable(path) == str(path)
    for content in (ours, b""):
        path.write_bytes(content)
        assert own_files.check_replaceable(path) == str(path)
        with pytest.raises(ValueError, match="is the file of --data"):
            own_files.check_replaceable(path, {"--data": path})
    path.write_bytes(foreign)
    with pytest.raises(ValueError, match=r"exists and is not .* it is not overwritten"):
        own_files.check_replaceable(path)


def test_devices_and_dangling_links_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match=r"exists and is not a .tflite"):
            own_files.check_replaceable(tmp_path / name)
