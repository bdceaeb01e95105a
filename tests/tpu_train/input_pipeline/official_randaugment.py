"""Golden outputs of the official augmentation code (tests/golden/README.md)."""

import json
import pathlib

import numpy as np

from tpu_train.input_pipeline import image_ops

GOLDEN_DIR = pathlib.Path(__file__).parents[2] / "golden"
GOLDEN = np.load(GOLDEN_DIR / "randaugment.npz")
ARGUMENTS = json.loads((GOLDEN_DIR / "randaugment_args.json").read_text())
OURS = {
    "AutoContrast": image_ops.autocontrast,
    "Equalize": image_ops.equalize,
    "Invert": image_ops.invert,
    "Rotate": image_ops.rotate,
    "Posterize": lambda image, bits: image_ops.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: image_ops.solarize(image, int(threshold)),
    "Color": image_ops.color,
    "Contrast": image_ops.contrast,
    "Brightness": image_ops.brightness,
    "Sharpness": image_ops.sharpness,
    "ShearX": image_ops.shear_x,
    "ShearY": image_ops.shear_y,
    "TranslateX": image_ops.translate_x,
    "TranslateY": image_ops.translate_y,
    "SolarizeAdd": lambda image, addition: image_ops.solarize_add(image, int(addition)),
}
WRAPS = ("Solarize/10", "Solarize/15")  # the official threshold overflows uint8


def allows_off_by_one(image):
    """Where the official smoothing may be one lower: its float32 sum depends on the CPU."""
    pixels = image.astype(int)
    total = sum(
        pixels[y : y + image.shape[0] - 2, x : x + image.shape[1] - 2]
        for y in range(3)
        for x in range(3)
    )
    total += 4 * pixels[1:-1, 1:-1]
    return np.pad(total % 13 == 0, ((1, 1), (1, 1), (0, 0)))


def equal(key, index, ours):
    """Whether an output equals golden number `index` of "operation/level"."""
    expected = GOLDEN[key][index]
    if key.startswith("Sharpness"):
        same = allows_off_by_one(GOLDEN["images"][index])
        most = abs(ARGUMENTS[key][0] - 1) + 1  # effect of one level of the smoothed pixel
        assert (np.abs(np.asarray(ours)[same].astype(int) - expected[same]) <= most).all()
        ours, expected = np.asarray(ours)[~same], expected[~same]
    return np.array_equal(ours, expected)
