"""What range every tensor of the float model takes on real images: the input of a
:class:`~tflite.quantize.QuantPlan`'s conversion.

The result is a plain dictionary that may be edited before :func:`tflite.quantize.quantize`.
"""

import math

import numpy as np

from tflite import graph, litert

RANGE_RULE = "smallest and largest value over all images"
MIN_IMAGES = 16


def calibrate(float_tflite, images, *, min_images=MIN_IMAGES):
    """{tensor: {"min": float, "max": float}} of every activation, over uint8 images (n, height,
    width, 3).

    The extremes over all images, so the order of the images does not matter. (The default of
    ai-edge-quantizer is a moving average which depends on it: the same 20 images gave a tensor
    (-17, 14) or (-5, 5).) The input's range is always (0, 255), so that its scale means pixels.

    Args:
        float_tflite: bytes of a float32 .tflite with the images' size.
        images: as ``load_images`` gives them; 100 to 500 that look like those of later use.
        min_images: fewer raise.

    Raises:
        ValueError: too few images, images of another shape or type, values that are not finite.
    """
    images = np.asarray(images)
    require_images(len(images), min_images)
    made = litert.interpreter(float_tflite, keep_tensors=True)
    feed = made.get_input_details()[0]
    want = tuple(int(n) for n in feed["shape"][1:])
    if images.dtype != np.uint8 or images.shape[1:] != want:
        raise ValueError(
            f"calibration images are {images.dtype} {images.shape}; this model takes uint8 "
            f"(n, {', '.join(map(str, want))}): see tflite.load_images"
        )
    tensors = graph.activations(float_tflite)
    low = dict.fromkeys(tensors, math.inf)
    high = dict.fromkeys(tensors, -math.inf)
    for image in images:
        made.set_tensor(feed["index"], image[None].astype(np.float32))
        made.invoke()
        for name, index in tensors.items():
            value = made.get_tensor(index)
            low[name] = min(low[name], float(value.min()))
            high[name] = max(high[name], float(value.max()))
    ranges = {name: {"min": low[name], "max": high[name]} for name in tensors}
    for name, bounds in ranges.items():
        if not all(map(math.isfinite, bounds.values())):
            raise ValueError(
                f"tensor {name!r} reaches {bounds['min']} to {bounds['max']} on the calibration "
                "images: the model's weights are not finite; it cannot be quantized"
            )
    ranges[feed["name"]] = {"min": 0.0, "max": 255.0}
    return ranges


def require_images(count, min_images=MIN_IMAGES):
    """Raises ``ValueError`` for fewer calibration images than that."""
    if count < min_images:
        raise ValueError(
            f"calibration has {count} images and needs {min_images}: 100 to 500 do well; with a "
            "smaller min_images tflite.calibrate accepts fewer, at the price of accuracy"
        )
