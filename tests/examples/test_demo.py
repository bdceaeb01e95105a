import dataclasses
import functools
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

from keras_effnet import variants

pytest.importorskip("ai_edge_litert", reason="the tflite extra is not installed")
pytest.importorskip("sklearn")
tf = pytest.importorskip("tensorflow")

DEMO = pathlib.Path(__file__).parent.parent.parent / "examples" / "demo.py"


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_demo_on_a_folder_of_photos_writes_every_file(
    demo, tiny, tmp_path, capsys, monkeypatch
):
    """With a tiny network; tests/test_notebooks.py trains and converts an EfficientNetV2-B0."""
    import tflite
    from tpu_train.recipes import table

    sizes = {"image_size_first": 32, "image_size_last": 40, "image_size_eval": 40}
    smaller = {"model": "tiny", "phases": 2, "augment": "none", **sizes}
    recipe = dataclasses.replace(table.find_recipe("photos"), **smaller)
    monkeypatch.setitem(variants.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(table, "find_recipe", {"photos": recipe}.get)
    quick = functools.partial(tflite.convert, search_evaluations=0, finetune=False)
    monkeypatch.setattr(tflite, "convert", quick)
    random = np.random.default_rng(0)
    for name, shade in (("dark", 40), ("light", 180)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            image = (shade + random.integers(0, 40, (70, 90, 3))).astype(np.uint8)
            path = str(tmp_path / "photos" / name / f"{i}.jpg")
            tf.io.write_file(path, tf.io.encode_jpeg(image))
    (tmp_path / "photos" / "dark" / "bad.jpg").write_bytes(b"\xff\xd8\xff not an image")
    out = tmp_path / "out"
    arguments = [f"--data={tmp_path / 'photos'}", f"--out={out}", "--device=cpu", "--epochs=2"]
    assert demo.main(arguments) == 0
    output = capsys.readouterr().out
    for text in ("cannot be decoded", "bad.jpg", "held-out top-1", "agreement", "in total"):
        assert text in output
    for name in ("model.keras", "model_int8.tflite", "curves.png", "predictions.png", "labels.txt"):
        assert (out / name).stat().st_size > 0
    assert json.loads((out / "model_int8.tflite.json").read_text())["preset"] == "int8"


def test_missing_data_is_a_one_line_error(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main([f"--data={tmp_path / 'nowhere'}", "--device=cpu"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("demo: ")
    assert "nowhere" in error
