"""A teacher that tells the classes of `source` by the color, and images for it."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_effnet.label_file import write_labels
from tests.tpu_train.noisy_student import small_parts as parts
from tpu_train.noisy_student import pseudo_labels, score_chunks
from tpu_train.training.distribution import make_strategy
from tpu_train.training.teacher import open_teacher

LEVELS = np.array([40.0, 95.0, 150.0, 205.0])  # of red, of the classes of `source`


def write_teacher(folder, classes="abcd", sharpness=0.001, levels=LEVELS):
    """Writes a .keras file of the nearest level, with `classes` in this order."""
    levels = levels[[sorted(classes).index(name) for name in classes]]
    inputs = keras.Input((32, 32, 3))
    means = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = keras.layers.Dense(len(classes), "softmax", name="head")(means)
    model = keras.Model(inputs, outputs, name="levels")
    kernel = np.zeros((3, len(classes)), np.float32)
    kernel[0] = 2 * levels * sharpness
    model.get_layer("head").set_weights([kernel, -(levels**2) * sharpness])
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.keras")
    write_labels(folder / "labels.txt", classes)
    return folder / "model.keras"


def write_photos(folder, count=60, seed=1):
    """Writes PNG files of any level of red, most of them near 95, into two subfolders."""
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = random.integers(0, 80, (20, 30, 3))
        pixels[..., 0] += int(random.choice([0, 55, 55, 55, 110, 165])) + random.integers(-25, 25)
        path = folder / "xy"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def write_labeled(path):
    """Writes 32 labeled images of four classes as .npz."""
    random = np.random.default_rng(0)
    labels = np.arange(32) % 4
    images = random.integers(0, 80, (32, 20, 30, 3))
    images[..., 0] += (labels * 55)[:, None, None]
    classes = np.array(list("abcd"))
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=classes)
    return path


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def teacher(teacher_path):
    return open_teacher(str(teacher_path), make_strategy("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def small_parts():
    """Several chunks and shards of few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_chunks, "CHUNK", parts.CHUNK)
        patch.setattr(pseudo_labels, "IMAGES_PER_SHARD", parts.IMAGES_PER_SHARD)
        yield
