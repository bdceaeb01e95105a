import functools
import importlib.util
import pathlib

import numpy as np
from PIL import Image

import tflite

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "int8_plot.py"


def load_script():
    spec = importlib.util.spec_from_file_location("int8_plot", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_plots_are_written(model, images, tmp_path, capsys, monkeypatch):
    quick = functools.partial(tflite.convert, search_evaluations=0)
    monkeypatch.setattr(tflite, "convert", quick)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.asarray(image, np.uint8)).save(folder / f"{number}.png")
    model.save(tmp_path / "model.keras")
    plots = load_script()
    arguments = [f"--model={tmp_path / 'model.keras'}", f"--calibration={folder}"]
    plots.main([*arguments, f"--out={tmp_path}"])
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["int8-ranges.png", "int8-sqnr.png"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" stem")[0].split(" input")[0] for line in printed] == list(plots.COLORS)
