"""The documentation: its Python runs, its commands exist, and the site builds without warnings."""

import importlib
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PROGRAMS = {
    "effnet": "keras_effnet.cli",
    "effnet-train": "tpu_train.cli",
    "effnet-tflite": "tflite.cli",
}
# Blocks that need a download; the tests of their functions use files made on the spot.
NEEDS_DOWNLOAD = ('weights="autoaugment"', 'weights="auto"', 'weights="imagenet21k')


def _blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^[ ]*```{language}\n(.*?)^[ ]*```", text, flags=re.M | re.S)


def _python(page):
    """The Python of a page as one program; blocks that need a download are left out."""
    blocks = (b for b in _blocks(page, "python") if not any(w in b for w in NEEDS_DOWNLOAD))
    return "\n".join(blocks)


def _commands(page):
    """The command lines of our three programs in a page: in code blocks and inline."""
    text = re.sub(r" \\\n\s*", " ", page.read_text(encoding="utf-8"))
    for line in text.splitlines():
        whole = re.sub(r"^\s*(until |\$ )?", "", line)
        if re.match(r"effnet(-train|-tflite)? [^|`]*$", whole):
            yield re.split(r";|\s#", whole)[0].strip()
        for inline in re.findall(r"`(effnet(?:-train|-tflite)? [^`]*)`", line):
            if not re.search(r"\.\.\.|[A-Z]{3}|\||^\S+ \S*$", inline):
                yield inline.strip()


COMMANDS = sorted({command for page in PAGES for command in _commands(page)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the pages name."""
    from PIL import Image

    import keras_effnet
    import tflite

    folder = tmp_path_factory.mktemp("docs")
    Image.effect_noise((120, 90), 80).convert("RGB").save(folder / "cat.jpg")
    (folder / "run1").mkdir()
    variant = keras_effnet.scale("efficientnet-lite0", width=0.3, depth=0.3, image_size=64)
    model = keras_effnet.create_model(variant, classes=3)
    model.save(folder / "run1" / "model.keras")
    tflite.save(tflite.convert(model, preset="float32"), folder / "my.tflite")
    return folder


def test_the_documented_commands_are_found():
    assert len(COMMANDS) >= 40
    assert any("--topology" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_has_valid_flags(command, capsys):
    program, *words = shlex.split(command)
    main = importlib.import_module(PROGRAMS[program]).main
    try:
        status = main([*words, "--help"])
    except SystemExit as error:
        status = error.code
    assert not status, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if _python(p)], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(_python(page), str(page), "exec"), {"__name__": "page"})


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    if not importlib.util.find_spec("mkdocs"):
        pytest.skip("needs mkdocs: pip install keras_effnet[docs]")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    assert "create_model" in api
    assert ":class:" not in api
