"""A folder of class folders for the tests of data sets."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """Two classes of JPEG and PNG files, 4 and 3 images, of different sizes; and a text file."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, count in (("cat", 4), ("dog", 3)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 255, (40 + i, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.{'png' if i == 1 else 'JPEG'}")
    (root / "cat" / "notes.txt").write_text("not an image")
    return root
