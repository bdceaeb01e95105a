"""The page examples/web in headless Chromium gives the scores of the LiteRT interpreter."""

import base64
import functools
import http.server
import io
import os
import pathlib
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from keras_effnet.litert import metadata, runner, runtime, writer
from tflite.images import mediapipe

WEB = pathlib.Path(__file__).parents[2] / "examples" / "web"
LABELS = [f"class {i}" for i in range(10)]
_CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,  # `make test` installs what these tests need, `make check` does not
    pytest.mark.skipif(
        _CHROMIUM is None, reason="needs a browser: apt-get install chromium libatomic1"
    ),
    pytest.mark.skipif(
        not (WEB / "node_modules/@mediapipe/tasks-vision/vision_bundle.mjs").is_file(),
        reason="needs MediaPipe for the web: npm ci --prefix examples/web",
    ),
]


@pytest.fixture(scope="module")
def server():
    """Serves examples/web on a free port. `server.model`: bytes of its model.tflite, or None."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/model.tflite":
                return super().do_GET()
            if self.server.model is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.model)))
            self.end_headers()
            return self.wfile.write(self.server.model)

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(WEB))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web_server:
        web_server.model = None
        thread = threading.Thread(target=web_server.serve_forever)
        thread.start()
        yield web_server
        web_server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium with a camera that always sees the same image."""
    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    _write_y4m(camera)
    playwright = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[test]"')
    with playwright.sync_playwright() as driver:
        flags = [
            "--use-fake-ui-for-media-stream",  # grants the camera
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={camera}",
        ]
        flags += ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium's sandbox refuses root
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def _write_y4m(path):
    """A video of one image: 64 x 48 pixels in four colors."""
    planes = np.zeros((3, 48, 64), np.uint8)
    planes[0] = np.linspace(40, 220, 64)
    planes[1, :24], planes[2, :, 32:] = 90, 200
    planes[1, 24:], planes[2, :, :32] = 160, 110
    luma, blue, red = planes[0], planes[1, ::2, ::2], planes[2, ::2, ::2]
    frame = b"FRAME\n" + luma.tobytes() + blue.tobytes() + red.tobytes()
    path.write_bytes(b"YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n" + frame * 3)


@pytest.fixture
def visit(server, browser):
    """visit(model): the page, loaded with a .tflite file.

    A JavaScript error or a request to another host fails the test.
    """
    contexts, errors, foreign_requests = [], [], []

    def open_page(model):
        server.model = model
        contexts.append(browser.new_context(viewport={"width": 390, "height": 844}))
        page = contexts[-1].new_page()
        home = f"http://127.0.0.1:{server.server_port}/"
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((home, "blob:"))
                else foreign_requests.append(request.url)
            ),
        )
        page.goto(home)
        page.wait_for_selector("body:not(.busy)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert foreign_requests == []


@pytest.fixture
def labelled_model(float_content):
    return metadata.attach(float_content, labels=LABELS)


def _drop(page, name, content):
    """Drops a file on the page and waits until the page has processed it."""
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("body:not(.busy)")


def _photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _displayed_scores(page):
    """[(label, score), ...] on the page, top to bottom."""
    return [
        (row.locator("span").inner_text(), float(row.get_attribute("data-score")))
        for row in page.locator("#scores li").all()
    ]


def _bars(page):
    return page.locator("#scores .bar").all()


def _assert_top_five(page, content, image):
    pixels = mediapipe.stretch(image, 32, 32)
    (expected,) = runner.scores(content, pixels[None])
    best = np.argsort(-expected)[:5]
    displayed = _displayed_scores(page)
    assert [label for label, _ in displayed] == [LABELS[i] for i in best]
    np.testing.assert_allclose([score for _, score in displayed], expected[best], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (300, 401)])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_dropped_photo_gets_the_interpreters_top_five(
    kind, size, visit, float_content, int8_content
):
    content = {"float": float_content, "int8": int8_content}[kind]
    content = metadata.attach(content, labels=LABELS)
    page = visit(content)
    image = _photo(*size)
    _drop(page, "photo.png", _png(image))
    _assert_top_five(page, content, image)
    assert re.fullmatch(r"\d+\.\d ms, photo to scores", page.inner_text("#latency"))
    first = page.locator("#scores li").first
    assert first.locator("output").inner_text() == f"{100 * _displayed_scores(page)[0][1]:.1f} %"
    widths = [bar.evaluate("bar => getComputedStyle(bar, '::before').width") for bar in _bars(page)]
    widths = [float(width[:-2]) for width in widths]
    assert widths == sorted(widths, reverse=True)
    full_width = first.locator(".bar").bounding_box()["width"]
    assert widths[0] == pytest.approx(_displayed_scores(page)[0][1] * full_width, abs=1)


def test_a_picked_photo_gets_the_interpreters_top_five(visit, labelled_model):
    page = visit(labelled_model)
    image = _photo(48, 40)
    page.set_input_files("#file", {"name": "p.png", "mimeType": "", "buffer": _png(image)})
    page.wait_for_selector("body:not(.busy)")
    page.wait_for_selector("#scores li")
    _assert_top_five(page, labelled_model, image)


def test_a_second_photo_replaces_the_scores_of_the_first(visit, labelled_model):
    page = visit(labelled_model)
    _drop(page, "first.png", _png(_photo(32, 32)))
    other = 255 - _photo(32, 32)
    _drop(page, "second.png", _png(other))
    _assert_top_five(page, labelled_model, other)


def test_a_missing_model_is_reported(visit):
    page = visit(None)
    assert page.inner_text("#error") == (
        "There is no model.tflite beside this page (404): put one there, or drop one."
    )
    _drop(page, "photo.png", _png(_photo(32, 32)))
    assert page.inner_text("#error").startswith("There is no model to ask")
    assert not page.is_visible("#scores")


def test_a_dropped_model_replaces_the_missing_one(visit, labelled_model):
    page = visit(None)
    _drop(page, "mine.tflite", labelled_model)
    assert not page.is_visible("#error")
    assert page.inner_text("#model") == "mine.tflite, 0.0 MB"
    _drop(page, "photo.png", _png(_photo(32, 32)))
    _assert_top_five(page, labelled_model, _photo(32, 32))


def test_an_invalid_model_file_keeps_the_previous_model(visit, labelled_model):
    page = visit(labelled_model)
    _drop(page, "broken.tflite", labelled_model[:5000])
    assert page.inner_text("#error").startswith("MediaPipe cannot use broken.tflite: ")
    assert page.inner_text("#model").startswith("model.tflite")
    _drop(page, "photo.png", _png(_photo(32, 32)))
    assert not page.is_visible("#error")
    _assert_top_five(page, labelled_model, _photo(32, 32))


def test_a_model_without_metadata_is_reported(visit, float_content):
    page = visit(float_content)
    assert "It takes a .tflite with metadata" in page.inner_text("#error")
    assert page.inner_text("#model") == "No model"


@pytest.mark.parametrize("content", [b"no image at all", b""])
def test_a_file_that_is_not_an_image_is_reported(content, visit, labelled_model):
    page = visit(labelled_model)
    _drop(page, "photo.png", _png(_photo(32, 32)))
    _drop(page, "notes.txt", content)
    assert page.inner_text("#error").startswith("notes.txt is not an image that this browser can")
    assert not page.is_visible("#scores")  # the scores of the previous photo are removed


def test_a_model_without_labels_shows_class_numbers(visit, int8_content):
    page = visit(writer.write(runtime.flatbuffer_tools().read_model_from_bytearray(int8_content)))
    _drop(page, "photo.png", _png(_photo(32, 32)))
    assert re.fullmatch(r"class \d", _displayed_scores(page)[0][0])


def test_logits_are_shown_without_bars(visit, logits_content):
    page = visit(metadata.attach(logits_content, labels=LABELS))
    _drop(page, "photo.png", _png(_photo(32, 32)))
    assert len(_displayed_scores(page)) == 5
    assert _bars(page) == []


def test_the_page_sends_nothing_to_other_hosts(visit, labelled_model):
    """MediaPipe reports usage when a classifier is closed; the page's security policy blocks it."""
    page = visit(labelled_model)
    _drop(page, "photo.png", _png(_photo(32, 32)))
    _drop(page, "next.tflite", labelled_model)  # closes the first classifier
    page.wait_for_timeout(500)
    blocked = page.evaluate("fetch('https://example.com/').then(() => '', (error) => error.name)")
    assert blocked == "TypeError"  # `visit` also fails on any request to another host


_FRAME = """() => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def test_the_camera_gets_the_interpreters_top_five_until_it_stops(visit, labelled_model):
    page = visit(labelled_model)
    page.click("#camera")
    page.wait_for_selector("#scores li")
    height, width, data = page.evaluate(_FRAME)
    image = np.array(data, np.uint8).reshape(height, width, 4)[..., :3]
    assert image.std() > 20  # the colors of the video
    _assert_top_five(page, labelled_model, image)
    assert not page.is_visible("#drop")
    assert re.fullmatch(r"\d+\.\d ms, image to scores", page.inner_text("#latency"))

    track = page.evaluate_handle("video.srcObject.getVideoTracks()[0]")
    assert page.inner_text("#camera") == "Stop the camera"
    page.click("#camera")
    assert track.evaluate("track => track.readyState") == "ended"
    assert page.is_visible("#drop")
    assert not page.is_visible("#video")


def test_a_dropped_photo_ends_the_camera(visit, labelled_model):
    page = visit(labelled_model)
    page.click("#camera")
    page.wait_for_selector("#scores li")
    _drop(page, "photo.png", _png(_photo(32, 32)))
    _assert_top_five(page, labelled_model, _photo(32, 32))
    assert not page.is_visible("#video")


def test_a_refused_camera_is_reported(visit, labelled_model):
    page = visit(labelled_model)
    page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () => "
        "Promise.reject(new DOMException('Permission denied', 'NotAllowedError')); }"
    )
    page.click("#camera")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == (
        "The camera cannot be used: Permission denied. Allow it for this page; browsers offer it "
        "on https:// and localhost only."
    )
    assert page.inner_text("#camera") == "Use the camera"
