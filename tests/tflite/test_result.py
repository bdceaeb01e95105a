import dataclasses
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest

import tflite
from keras_effnet.model_card.markdown import MARK
from tflite.quantization.mixed_precision import Budget, Float32Region
from tflite.quantization.step_selection import QuantizationStep
from tflite.result import shown_images


@pytest.fixture(scope="module")
def compare_once():
    """compare_once(model, images) -> a float16 conversion with a comparison, made once."""
    conversions = {}

    def once(model, images):
        if model not in conversions:
            conversions[model] = tflite.convert(model, preset="float16", evaluation=images)
        return conversions[model]

    return once


@pytest.fixture
def float32(float_content):
    """A float32 conversion without images."""
    return tflite.convert(float_content, preset="float32")


# Saving ---------------------------------------------------------------------------------------


def test_save_returns_the_files_that_it_wrote(float32, tmp_path):
    path = str(tmp_path / "m.tflite")
    cards = [f"{path}.card.json", f"{path}.card.md"]
    assert tflite.save(float32, path) == [f"{path}.json", *cards, path]
    names = [f"class {i}" for i in range(10)]
    paths = tflite.save(float32, path, class_names=names)
    assert paths == [f"{path}.json", f"{path}.labels.txt", *cards, path]
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(p) for p in paths)
    assert (tmp_path / "m.tflite").read_bytes() == float32.tflite_model
    assert json.loads((tmp_path / "m.tflite.json").read_text())["preset"] == "float32"
    assert (tmp_path / "m.tflite.labels.txt").read_text().splitlines() == names


def test_another_ending_is_refused_and_the_card_of_the_folder_kept(float32, tmp_path):
    card = tmp_path / "model_card.md"
    card.write_text(MARK)
    with pytest.raises(ValueError, match=r"m\.lite' must end in \.tflite"):
        tflite.save(float32, tmp_path / "m.lite")
    assert os.listdir(tmp_path) == ["model_card.md"]
    assert card.read_text() == MARK


def test_comparison_is_saved_as_html_and_json(float_content, images, compare_once, tmp_path):
    conversion = compare_once(float_content, images)
    path = str(tmp_path / "m.tflite")
    assert tflite.save(conversion, path)[:2] == [f"{path}.json", f"{path}.html"]
    html = (tmp_path / "m.tflite.html").read_text()
    assert html.lstrip().lower().startswith("<!doctype html")
    record = json.loads((tmp_path / "m.tflite.json").read_text())
    assert record["report"]["agreement"] == conversion.report.agreement
    assert record["size"] == len(conversion.tflite_model)


def test_files_of_an_earlier_conversion_do_not_stay(
    float_content, images, compare_once, float32, tmp_path
):
    path = tmp_path / "m.tflite"
    earlier = tflite.save(compare_once(float_content, images), path, class_names=list("abcdefghij"))
    written = tflite.save(dataclasses.replace(float32, comparison=None), path)
    assert set(earlier) - set(written) == {f"{path}.html", f"{path}.labels.txt"}
    assert not os.path.exists(f"{path}.html")
    assert os.path.exists(f"{path}.labels.txt")  # it may be the user's
    (tmp_path / "m.tflite.html").write_text("my page")
    tflite.save(dataclasses.replace(float32, comparison=None), path)
    assert (tmp_path / "m.tflite.html").read_text() == "my page"


def test_failed_write_keeps_the_old_file(float32, tmp_path, monkeypatch):
    (tmp_path / "m.tflite").write_bytes(b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        tflite.save(float32, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == ["m.tflite"]
    assert (tmp_path / "m.tflite").read_bytes() == b"old"


# The record -----------------------------------------------------------------------------------


def test_json_has_typed_steps_and_regions(float32):
    steps = (
        QuantizationStep("first", "what it does", 0.5, 0.9, gain=0.25, standard_error=0.125),
        QuantizationStep("broken", "what it does", math.inf, 0.0, False, -math.inf, 0.0),
    )
    region = Float32Region("top", ("a", "b"), 0.25, 0.5, "why")
    conversion = dataclasses.replace(float32, quantization_steps=steps, float32_regions=(region,))
    record = json.loads(json.dumps(conversion.as_dict(), allow_nan=False))
    assert record["quantization_steps"] == [
        {"name": "first", "description": "what it does", "kl_divergence": 0.5, "agreement": 0.9,
         "kept": True, "gain": 0.25, "standard_error": 0.125, "evaluations": 1, "skipped": "",
         "runs": True},
        {"name": "broken", "description": "what it does", "kl_divergence": None, "agreement": 0.0,
         "kept": False, "gain": None, "standard_error": None, "evaluations": 1, "skipped": "",
         "runs": False},
    ]  # fmt: skip
    assert record["float32_regions"] == [
        {"name": "top", "outputs": ["a", "b"], "kl_divergence": 0.25, "cost": 0.5,
         "reason": "why"}
    ]  # fmt: skip


def test_without_images_none_are_shown(float_content, images, compare_once):
    conversion = compare_once(float_content, images)
    assert shown_images(None, images) == shown_images(conversion.report, None) == {}
    changed = conversion.report.changed_predictions[:10]
    assert set(conversion.shown_images) == {row.index for row in changed}


@pytest.mark.parametrize(("changed", "shown"), [(0, 0), (3, 3), (12, 10)])
def test_first_ten_changed_predictions_are_shown(images, changed, shown):
    indices = list(range(15, 15 - changed, -1))
    rows = [SimpleNamespace(index=index) for index in indices]
    kept = shown_images(SimpleNamespace(changed_predictions=rows), images)
    assert list(kept) == indices[:shown]
    assert all(np.array_equal(kept[index], images[index]) for index in kept)


# Warnings -------------------------------------------------------------------------------------


def test_conversion_warns_of_large_files_and_slow_presets(float32):
    assert float32.warnings == ()
    large = dataclasses.replace(float32, tflite_model=bytes(31_000_000))
    assert ["31 MB" in line for line in large.warnings] == [True]
    slow = dataclasses.replace(float32, plan=tflite.make_plan([], "int16x8"))
    assert "int16" in slow.warnings[0]


def test_conversion_warns_of_a_budget_missed_on_other_images(float_content, images, compare_once):
    conversion = compare_once(float_content, images)
    missed = dataclasses.replace(
        conversion,
        budget=Budget(min_agreement=0.9),
        report=dataclasses.replace(conversion.report, agreement=0.5),
    )
    (warning,) = missed.warnings
    assert "at least 90.00% prediction agreement" in warning
    assert "50.00% agreement" in warning
    assert dataclasses.replace(missed, budget=Budget(min_agreement=0.4)).warnings == ()
