"""``effnet demo`` in headless Chromium: a photo's predictions, its Grad-CAM, and errors."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="pip install 'keras_effnet[demo]'")
pytest.importorskip("ai_edge_quantizer")  # writes the .tflite
pytest.importorskip("playwright", reason='pip install -e ".[test]"')

from keras_effnet import create_model
from keras_effnet.demo.classification import explain_photo, open_demo
from keras_effnet.interruption import INTERRUPTED
from tests.conftest import TINY

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAMES = ["cat", "dog", "fox", "owl", "bee", "ant"]
_CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_CHROMIUM is None, reason="needs a browser: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, a tiny model with six classes, and its float32 .tflite."""
    import tflite

    folder = tmp_path_factory.mktemp("page")
    model = create_model(TINY, weights=None, input_shape=(32, 32, 3), classes=len(NAMES))
    model.save(folder / "model.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    tflite.save(tflite.convert(model, preset="float32", class_names=NAMES), folder / "my.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "notes.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """The address of a running ``effnet demo``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "keras_effnet.cli", "demo", "--model=model.keras"]
    with subprocess.Popen(
        [*command, "--tflite=my.tflite", f"--port={port}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        address = next((w for line in process.stdout for w in line.split() if "http" in w), None)
        assert address == f"http://127.0.0.1:{port}"
        yield address
        process.send_signal(2)
        assert process.wait(timeout=60) == INTERRUPTED


@pytest.fixture
def page(address):
    """The page in a browser that reaches nothing else; a JavaScript error fails the test."""
    from playwright import sync_api

    errors, foreign = [], []
    with sync_api.sync_playwright() as driver:
        flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags += ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium's sandbox refuses root
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=flags)
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: foreign.append(request.url))
        page.goto(address)
        yield page
        chromium.close()
    assert errors == []
    assert [url for url in foreign if not url.startswith((address, "data:", "blob:"))] == []


def _choose(page, path):
    page.set_input_files("#photo input[type=file]", path)


def test_a_photo_gets_the_predictions_and_pictures_of_the_models(page, folder):
    _choose(page, folder / "photo.png")
    page.wait_for_selector("#heat img")
    demo = open_demo(str(folder / "model.keras"), tflite=str(folder / "my.tflite"))
    explanation = explain_photo(demo, str(folder / "photo.png"))
    for i, prediction in enumerate(explanation.predictions):
        text = page.inner_text(f"#top-{i}")
        expected = [(n, f"{p:.0%}") for n, p in prediction.best.items()]
        assert re.findall(r"([a-z]{3})\s+(\d+%)", text) == expected, text
    assert len(re.findall(r"\d+\.\d ms for one image", page.inner_text("#summary"))) == 2
    assert "The models predict the same class" in page.inner_text("#summary")
    for name, picture in (("prepared", explanation.prepared), ("heat", explanation.heat)):
        address = page.get_attribute(f"#{name} img", "src")
        shown = page.request.get(address).body()
        (folder / "shown.png").write_bytes(shown)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "shown.png")), picture)


def test_an_image_of_the_camera_is_classified(page):
    page.click("#photo button[aria-label='Capture from camera']")
    page.click("text=Click to Access Webcam")
    page.wait_for_function("document.querySelector('#photo video')?.readyState === 4")
    page.click("#photo button[aria-label='capture photo']")
    page.wait_for_selector("#heat img")
    assert "The models predict the same class" in page.inner_text("#summary")


def test_a_file_that_is_not_an_image_is_reported(page, folder):
    _choose(page, folder / "notes.png")
    for text in ("Error", "notes.png"):
        page.wait_for_function(f"document.body.innerText.includes('{text}')")
