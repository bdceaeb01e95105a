"""Top-1 accuracy of pretrained weights on photos whose file names start with the WordNet id.

    python tools/photo_accuracy.py --photos=photos --model=efficientnet-lite0

A photo of class tench is called ``n01440764_tench.JPEG``.
"""

import argparse
import pathlib

import numpy as np

from keras_effnet import create_model, decode_predictions, load_image, preprocess, preprocessing


def measure(photos, variant, weights, *, batch=50):
    """(number of photos whose best class is right, number of photos)."""
    paths = sorted(p for p in pathlib.Path(photos).iterdir() if p.name.startswith("n"))
    model = create_model(variant, weights=weights)
    prepare = preprocessing(model)
    right = 0
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        images = np.stack([preprocess(load_image(path), prepare) for path in part])
        best = decode_predictions(model.predict(images, verbose=0), top=1)
        right += sum(p.name.split("_")[0] == row[0][0] for p, row in zip(part, best))
    return right, len(paths)


def main():
    """Prints the accuracy of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", default="auto")
    options = parser.parse_args()
    right, count = measure(options.photos, options.model, options.weights)
    print(f"{options.model} {options.weights}: {right} of {count} right, top-1 {right / count:.1%}")


if __name__ == "__main__":
    main()
