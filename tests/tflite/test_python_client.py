"""examples/python classifies photos as the interpreter of this package does."""

import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

from keras_effnet.litert import metadata, runner

CLIENT = pathlib.Path(__file__).parents[2] / "examples" / "python" / "classify.py"
LABELS = [f"class {i}" for i in range(10)]


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_client_prints_the_interpreters_top_five(
    kind, float_content, int8_content, tmp_path, monkeypatch, capsys
):
    content = {"float": float_content, "int8": int8_content}[kind]
    content = metadata.attach(content, labels=LABELS)
    (tmp_path / "my.tflite").write_bytes(content)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["classify.py", "my.tflite", "photo.png"])
    runpy.run_path(str(CLIENT), run_name="__main__")
    (expected,) = runner.scores(content, image[None])
    best = np.argsort(-expected)[:5]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"photo.png: {expected[i]:6.1%} {LABELS[i]}" for i in best]


def test_the_client_imports_neither_keras_nor_this_package():
    source = CLIENT.read_text(encoding="utf-8")
    imports = [
        line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))
    ]
    assert {name.split(".")[0] for name in imports} == {
        *("sys", "zipfile", "numpy", "ai_edge_litert", "PIL")
    }
