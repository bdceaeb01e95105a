import dataclasses
import html.parser
import json
import os
import re

import numpy as np
import pytest

from keras_effnet.litert import runtime, writer
from tflite.evaluation.accuracy import EvaluationImages
from tflite.evaluation.comparison import compare
from tflite.evaluation.paired_statistics import Drop
from tflite.report import comparison_sections, provenance
from tflite.report.html_report import render, write_report

_RECORD = {
    "preset": "int8",
    "plan": ["input    uint8", "int8     CONV_2D 9  (<all of them>)"],
    "quantization_steps": [
        {
            "name": name,
            "description": description,
            "kl_divergence": kl,
            "agreement": agreement,
            "gain": 0.5,
            "standard_error": 0.125,
            "evaluations": 2,
            "kept": kept,
            "runs": kl is not None,
        }
        for name, description, kl, agreement, kept in (
            ("min-max ranges", "smallest and largest value", 0.2, 0.9, True),
            ("bias correction", "mean error", 0.0512, 0.95, True),
            ("fine-tuning", "of all weights", 0.07, 0.93, False),
            ("equalization", "of channels", None, 0.0, False),
        )
    ],
    "float32_regions": [
        {
            "name": "block1a",
            "outputs": ["a", "b"],
            "kl_divergence": 0.0123,
            "cost": 0.2,
            "reason": "sensitive",
        }
    ],
    "calibration": {
        "source": "photos/",
        "images": 2048,
        "sha256": "abc",
        "files": [f"{i}.png" for i in range(50)],
        "preprocessing": "stretched",
    },
}
_NAMES = [f"class <{i}>" for i in range(10)]


def _disturbed(content):
    """The same network with random errors in its weights."""
    tree = runtime.flatbuffer_tools().read_model_from_bytearray(content)
    rng = np.random.default_rng(0)
    for buffer in tree.buffers:
        if buffer.data is not None and len(buffer.data) > 256:
            weights = np.frombuffer(bytes(buffer.data), np.float32)
            noisy = weights + rng.normal(0, weights.std(), weights.shape)
            buffer.data = np.frombuffer(noisy.astype(np.float32).tobytes(), np.uint8)
    return writer.write(tree)


@pytest.fixture(scope="module")
def colours():
    """16 images of one colour each, with several predicted classes."""
    colours = np.random.default_rng(2).integers(0, 256, (16, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (16, 32, 32, 3)).copy()


@pytest.fixture(scope="module")
def compared():
    """Compares two files, once for each pair."""
    comparisons = {}

    def get(first, second, images):
        key = (first, second)
        if key not in comparisons:
            labels = np.arange(len(images)) % 10
            data = EvaluationImages(images, labels, "<random>")
            comparisons[key] = compare(first, second, data, runs=2)
        return comparisons[key]

    return get


@pytest.fixture
def comparison(compared, float_content, colours):
    """Of two networks that often predict different classes."""
    return compared(float_content, _disturbed(float_content), colours)


class _Page(html.parser.HTMLParser):
    """Fails for tags that do not match; collects headings, text, addresses and previews."""

    _VOID = ("meta", "img", "br", "wbr", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.loaded, self.previews, self.words = [], [], [], 0, ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self._VOID:
            self.open.append(tag)
        self.previews += tag == "figure"
        assert tag not in ("script", "link", "iframe")
        self.loaded += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def _write(folder, comparison, **options):
    json_path = write_report(folder / "r.html", comparison, **options)
    text = (folder / "r.html").read_text(encoding="utf-8")
    with open(json_path, encoding="utf-8") as file:
        return _Page(text), text, json.load(file)


def test_a_page_has_all_sections_and_loads_nothing(tmp_path, comparison, colours):
    page, text, _ = _write(tmp_path, comparison, record=_RECORD, images=colours, class_names=_NAMES)
    assert page.headings == [
        "Metrics",
        "Quantization steps",
        "Ops kept in float32",
        "SQNR by block",
        "Changed predictions",
        "Size by part",
        "Latency",
        "Delegate support",
        "Calibration images",
        "Quantization plan",
    ]
    assert page.loaded
    assert all(address.startswith("data:image/png;base64,") for address in page.loaded)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text


def test_page_and_json_have_the_numbers_of_the_comparison(tmp_path, comparison, colours):
    page, _, content = _write(tmp_path, comparison, record=_RECORD, images=colours)
    r = comparison.report
    for shown in (
        f"{r.agreement:.2%}",
        f"{r.agreement_confidence_interval[0]:.2%} to {r.agreement_confidence_interval[1]:.2%}",
        f"{r.reference.top1:.2%}",
        f"{r.candidate.size:,}",
        f"{r.candidate.latency_2_threads_ms:.2f} ms",
        f"{comparison.blocks[2].sqnr_db:.1f} dB",
        f"{r.kl_divergence:.4f} nats",
        "2,048",
        "and 30 more",
        "95.00%",
        "0.0512",
        "0.0123",
        "not kept",
        "does not run",
        "95 % confidence interval",
    ):
        assert shown in page.words, shown
    assert content["report"] == json.loads(json.dumps(r.as_dict()))
    assert content["record"] == _RECORD
    assert [b["name"] for b in content["blocks"]] == [b.name for b in comparison.blocks]
    assert [sum(p.values()) for p in content["size_by_part"]] == [
        r.reference.size,
        r.candidate.size,
    ]
    assert content["delegates"][1][0]["delegate"] == "XNNPACK"


def test_a_page_states_its_origin(tmp_path, comparison):
    command = "effnet-tflite --model='my <net>.keras'"
    origin = provenance.origin_of("/a/my.tflite", model="b/my.keras", command=command)
    page, text, content = _write(tmp_path, comparison, origin=origin)
    assert "<title>my.tflite: " in text
    assert page.headings[-1] == "Origin"
    for shown in ("my.tflite", "my.keras", origin["date"], command, "keras_effnet 0."):
        assert shown in page.words
    assert content["origin"] == origin
    assert (origin["file"], origin["model"]) == ("my.tflite", "my.keras")
    for damaged in ({}, [], {"file": 3, "versions": "x"}, {"date": None}):
        _write(tmp_path, comparison, origin=damaged)


def test_a_larger_file_is_called_larger(comparison):
    report = comparison.report
    candidate = dataclasses.replace(report.candidate, size=2 * report.reference.size)
    report = dataclasses.replace(report, candidate=candidate)
    text = _Page(render(dataclasses.replace(comparison, report=report))).words
    assert "times smaller" not in text
    assert "2.00 times larger" in text


def test_a_file_of_the_same_size_is_no_smaller(comparison):
    page = _Page(render(comparison)).words
    assert "It is as large and" in page
    assert "times smaller" not in page


def test_bytes_of_a_file_name_that_are_no_text_are_escaped(tmp_path, comparison):
    name = os.fsdecode(b"caf\xe9.tflite")
    report = dataclasses.replace(comparison.report, source=name)
    origin = {"file": name, "model": name, "command": f"effnet-tflite --out={name}"}
    changed = dataclasses.replace(comparison, report=report)
    page, _, _ = _write(tmp_path, changed, origin=origin)
    assert r"caf\udce9.tflite" in page.words


def test_few_calibration_images_are_not_called_held_out(tmp_path, comparison):
    learned = "which the step also learned from"
    assert learned not in _write(tmp_path, comparison, record=_RECORD)[0].words
    record = {**_RECORD, "calibration": {**_RECORD["calibration"], "images": 63}}
    words = _write(tmp_path, comparison, record=record)[0].words
    assert f"evaluated on the 63 calibration images, {learned}" in words
    assert "did not learn from" not in words


def test_losses_have_one_sign_and_an_interval(tmp_path, comparison):
    r = dataclasses.replace(comparison.report, drop=Drop(-0.5, (-1.25, 0.25), 1, 2, 0.7))
    page, _, _ = _write(tmp_path, dataclasses.replace(comparison, report=r))
    assert "not significant" in page.words
    assert "\N{MINUS SIGN}1.25 to +0.25" in page.words
    assert "+0.50" not in page.words
    r = dataclasses.replace(r, drop=Drop(2.5, (1.25, 3.75), 9, 1, 0.01))
    page, _, _ = _write(tmp_path, dataclasses.replace(comparison, report=r))
    assert "+2.50 points" in page.words
    assert "not significant" not in page.words


def test_changed_predictions_have_class_names_and_labels(tmp_path, comparison, colours):
    page, _, _ = _write(tmp_path, comparison, images=colours, class_names=_NAMES)
    changed = comparison.report.changed_predictions
    assert page.previews == len(page.loaded) == min(10, len(changed)) > 0
    assert f"class <{changed[0].reference}>" in page.words
    assert f"label: class <{changed[0].label}>" in page.words
    kinds = [row.outcome for row in changed]
    assert f"{kinds.count('wrong->wrong')} from one wrong class" in page.words


def test_previews_need_only_the_images_that_they_show(comparison, colours):
    rows = comparison.report.changed_predictions[: comparison_sections.PREVIEWS]
    few = {row.index: colours[row.index] for row in rows}
    assert render(comparison, images=few) == render(comparison, images=colours)


def test_text_from_users_is_escaped(tmp_path, comparison, colours):
    _, text, _ = _write(tmp_path, comparison, record=_RECORD, images=colours, class_names=_NAMES)
    assert "<random>" not in text
    assert "class <" not in text
    assert "&lt;all of them&gt;" in text


def test_sections_without_data_are_left_out(
    tmp_path, compared, float_content, int8_content, colours
):
    comparison = compared(float_content, int8_content, colours)
    for record in (None, {}, {"quantization_steps": [], "float32_regions": None, "plan": []}):
        page, _, content = _write(tmp_path, comparison, record=record)
        absent = ("Quantization steps", "Ops kept in float32", "Calibration images")
        assert not {*absent, "Quantization plan"} & {*page.headings}
        assert not page.loaded  # no images given
        assert content["record"] == {}


@pytest.mark.parametrize(
    "record",
    [
        {"quantization_steps": [{"name": "x"}, 3], "float32_regions": [{}], "calibration": {}},
        {"quantization_steps": "all", "float32_regions": 7, "calibration": [1], "plan": "a\nb"},
        {"quantization_steps": [{"name": None, "kl_divergence": "low", "kept": 3}], "preset": 4},
        {"quantization_steps": [{"agreement": float("nan"), "gain": True}]},
        {"calibration": {"images": None, "files": "all"}, "float32_regions": [{"outputs": 3}]},
    ],
)
def test_malformed_records_do_not_break_the_page(tmp_path, comparison, record):
    _write(tmp_path, comparison, record=record)


def test_a_failed_write_leaves_the_old_page(tmp_path, comparison, monkeypatch):
    (tmp_path / "r.html").write_text("old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "r.html", comparison)
    assert os.listdir(tmp_path) == ["r.html"]
    assert (tmp_path / "r.html").read_text() == "old"


def test_other_endings_and_image_counts_are_errors(tmp_path, comparison, colours):
    with pytest.raises(ValueError, match=r"does not end in \.html"):
        write_report(tmp_path / "r.txt", comparison)
    with pytest.raises(ValueError, match="3 images for a comparison of 16"):
        write_report(tmp_path / "r.html", comparison, images=colours[:3])
    assert not os.listdir(tmp_path)
