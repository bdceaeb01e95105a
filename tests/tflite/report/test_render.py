import html.parser
import json
import os
import re

import numpy as np
import pytest

from tflite import litert
from tflite.evaluation.comparison import compare
from tflite.flatbuffer import rewrite
from tflite.report.render import write_report

_RECORD = {
    "preset": "int8",
    "plan": ["input    uint8", "int8     CONV_2D 9  (<all of them>)"],
    "remedies": [
        {"name": "naive", "what": "min and max", "kl": 0.2, "agreement": 0.9, "seconds": 1.5},
        {"name": "bias", "what": "mean error", "kl": 0.05, "agreement": 0.95, "seconds": 2},
    ],
    "islands": [
        {"name": "block1a", "ops": ["a", "b"], "gain": 0.01, "latency_ms": 0.2, "why": "gain"}
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
    """The same network with noise on its weights."""
    tree = litert.flatbuffer_tools().read_model_from_bytearray(content)
    rng = np.random.default_rng(0)
    for buffer in tree.buffers:
        if buffer.data is not None and len(buffer.data) > 256:
            weights = np.frombuffer(bytes(buffer.data), np.float32)
            noisy = weights + rng.normal(0, weights.std(), weights.shape)
            buffer.data = np.frombuffer(noisy.astype(np.float32).tobytes(), np.uint8)
    return rewrite.write(tree)


@pytest.fixture(scope="module")
def colours():
    """16 images of one colour each, which get several answers."""
    made = np.random.default_rng(2).integers(0, 256, (16, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(made, (16, 32, 32, 3)).copy()


@pytest.fixture(scope="module")
def compared():
    """Compares two files, once for the same ones."""
    made = {}

    def get(first, second, images):
        key = (first, second)
        if key not in made:
            labels = np.arange(len(images)) % 10
            made[key] = compare(first, second, images, labels, source="<noise>", runs=2)
        return made[key]

    return get


@pytest.fixture
def comparison(compared, float_content, colours):
    """Of two networks that often disagree."""
    return compared(float_content, _disturbed(float_content), colours)


class _Page(html.parser.HTMLParser):
    """Fails for tags that do not match; keeps headings, text and what is loaded."""

    _VOID = ("meta", "img", "br", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.loaded, self.figures, self.words = [], [], [], 0, ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self._VOID:
            self.open.append(tag)
        self.figures += tag == "figure"
        assert tag not in ("script", "link", "iframe")
        self.loaded += [v for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def _write(folder, comparison, **options):
    figures = write_report(folder / "r.html", comparison, **options)
    text = (folder / "r.html").read_text(encoding="utf-8")
    with open(figures, encoding="utf-8") as file:
        return _Page(text), text, json.load(file)


def test_a_page_needs_nothing_beside_it(tmp_path, comparison, colours):
    page, text, _ = _write(tmp_path, comparison, record=_RECORD, images=colours, class_names=_NAMES)
    assert page.headings == [
        "Side by side",
        "What each remedy changed",
        "Float islands",
        "Signal and noise, block by block",
        "Images that changed their answer",
        "Size by part",
        "Latency",
        "Ops by delegate",
        "Calibration",
        "The plan",
    ]
    assert page.loaded
    assert all(address.startswith("data:image/png;base64,") for address in page.loaded)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text


def test_the_figures_are_the_comparisons(tmp_path, comparison, colours):
    page, _, figures = _write(tmp_path, comparison, record=_RECORD, images=colours)
    r = comparison.report
    for shown in (
        f"{r.agreement:.2%}",
        f"{r.agreement_interval[0]:.2%} to {r.agreement_interval[1]:.2%}",
        f"{r.float32.top1:.2%}",
        f"{r.int8.size:,}",
        f"{r.int8.latency_2_threads_ms:.2f} ms",
        f"{comparison.blocks[2].sqnr_db:.1f} dB",
        f"{r.divergence:.4f} nats",
        "2,048",
        "and 30 more",
        "95.00%",
    ):
        assert shown in page.words, shown
    assert figures["report"] == json.loads(json.dumps(r.as_dict()))
    assert figures["record"] == _RECORD
    assert [b["name"] for b in figures["blocks"]] == [b.name for b in comparison.blocks]
    assert [sum(p.values()) for p in figures["bytes_by_part"]] == [r.float32.size, r.int8.size]
    assert figures["delegates"][1][0]["delegate"] == "XNNPACK"


def test_what_changed_is_shown_with_names_and_labels(tmp_path, comparison, colours):
    page, _, _ = _write(tmp_path, comparison, images=colours, class_names=_NAMES)
    changed = comparison.report.changed
    assert page.figures == len(page.loaded) == min(10, len(changed)) > 0
    assert f"class <{changed[0].first}>" in page.words
    assert f"label: class <{changed[0].label}>" in page.words
    kinds = [row.kind for row in changed]
    assert f"{kinds.count('wrong->wrong')} from one wrong answer" in page.words


def test_nothing_of_a_user_is_taken_for_html(tmp_path, comparison, colours):
    _, text, _ = _write(tmp_path, comparison, record=_RECORD, images=colours, class_names=_NAMES)
    assert "<noise>" not in text
    assert "class <" not in text
    assert "&lt;all of them&gt;" in text


def test_sections_without_figures_are_left_out(
    tmp_path, compared, float_content, int8_content, colours
):
    made = compared(float_content, int8_content, colours)
    for record in (None, {}, {"remedies": [], "islands": None, "plan": []}):
        page, _, figures = _write(tmp_path, made, record=record)
        assert not {"What each remedy changed", "Float islands", "Calibration", "The plan"} & {
            *page.headings
        }
        assert not page.loaded  # no images given
        assert figures["record"] == {}


@pytest.mark.parametrize(
    "record",
    [
        {"remedies": [{"name": "x"}, 3], "islands": [{}], "calibration": {"images": None}},
        {"remedies": "all", "islands": 7, "calibration": [1], "plan": "a\nb", "preset": 4},
        {"remedies": [{"name": None, "kl": "low", "agreement": float("nan")}]},
    ],
)
def test_a_strange_record_breaks_nothing(tmp_path, comparison, record):
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


def test_other_colours_and_endings_are_errors(tmp_path, comparison, colours):
    with pytest.raises(ValueError, match=r"does not end in \.html"):
        write_report(tmp_path / "r.txt", comparison)
    with pytest.raises(ValueError, match="3 images for a comparison of 16"):
        write_report(tmp_path / "r.html", comparison, images=colours[:3])
    assert not os.listdir(tmp_path)
