"""Image folders shared by the tests of the input pipeline."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def photos(tmp_path):
    """Two classes of JPEG and PNG files, 4 and 3 images, of different sizes."""
    random = np.random.default_rng(0)
    for name, count in (("cat", 4), ("dog", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = random.integers(0, 255, (40 + i, 50, 3)).astype(np.uint8)
            encode, ending = (tf.io.encode_png, "png") if i == 1 else (tf.io.encode_jpeg, "JPEG")
            tf.io.write_file(str(tmp_path / name / f"{i}.{ending}"), encode(pixels))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """Two classes of JPEG and PNG files, 12 each, of different sizes."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 255, (40 + i, 50, 3)).astype(np.uint8)
            encode, ending = (tf.io.encode_png, "png") if i == 1 else (tf.io.encode_jpeg, "jpg")
            (root / name / f"{i:02}.{ending}").write_bytes(encode(pixels).numpy())
    return root
