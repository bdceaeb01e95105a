"""All platforms use the MediaPipe version that requirements/newest.txt pins for the tests."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def _found(file, pattern):
    """The version that `pattern` finds in a file of the repository."""
    return re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.M)[1]


VERSION = _found("requirements/newest.txt", r"^mediapipe==(.+)$")


def test_the_web_page_uses_the_tested_mediapipe():
    name = "@mediapipe/tasks-vision"
    package = json.loads((ROOT / "examples/web/package.json").read_text())
    lock = json.loads((ROOT / "examples/web/package-lock.json").read_text())["packages"]
    assert package["dependencies"][name] == VERSION
    assert lock[""]["dependencies"][name] == lock[f"node_modules/{name}"]["version"] == VERSION


def test_the_android_app_uses_the_tested_mediapipe():
    gradle = "examples/android/app/build.gradle.kts"
    assert _found(gradle, r'"com\.google\.mediapipe:tasks-vision:([^"]+)"') == VERSION


def test_documents_state_the_tested_mediapipe():
    assert _found("docs/mobile-and-web.md", r"^MediaPipe ([\d.]*\d) everywhere") == VERSION
    assert _found("tflite/images/mediapipe.py", r"In MediaPipe ([\d.]*\d)") == VERSION
