"""The whole way in one command: train on real images, evaluate, export, quantize to int8, compare.

``make demo`` trains an EfficientNetV2-B0 from scratch on scikit-learn's 1,797 scans of handwritten
digits, a third of them held out; ``make demo DATA=my_photos`` does the same with a folder that has
one folder of images a class. Leaves the model, the int8 file, a report and two pictures in --out.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

from keras_effnet.native_logs import filter_native_logs

CALIBRATION_IMAGES = 256
PICTURED = 12


def main(argv=None):
    """Runs it all; returns the exit status."""
    if argv is None:  # run as a program
        filter_native_logs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default="digits", help="'digits', a folder of class folders, .npz"
    )
    parser.add_argument("--out", default="demo-out", help="folder for what comes out; replaced")
    parser.add_argument("--device", default="auto", help="as effnet-train's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="instead of the recipe's")
    options = parser.parse_args(argv)
    try:
        run(options)
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def run(options):
    """Trains, converts, verifies and draws."""
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy(options.device)  # before any other TensorFlow call

    import dataclasses

    import keras

    import tflite
    from tpu_train.recipes.published import find_recipe
    from tpu_train.training.run import train

    began = time.monotonic()
    out = pathlib.Path(options.out)
    recipe = find_recipe("digits" if options.data == "digits" else "photos")
    recipe = dataclasses.replace(recipe, seed=options.seed, epochs=options.epochs or recipe.epochs)
    training, held_out = open_images(options.data, recipe.seed)
    for path in training.skipped:
        print(f"skipped, cannot be decoded: {path}")

    print(f"\n1. Training ({recipe.model}, {recipe.phases} phases)\n", flush=True)
    result = train(recipe, training, held_out, out, strategy, overwrite=True)

    print("\n2. Converting to int8\n", flush=True)
    size = recipe.image_size_eval
    images, labels = pixels(held_out, size)
    conversion = tflite.convert(
        keras.saving.load_model(result.model_path, compile=False),
        preset="int8",
        calibration=pixels(training, size, limit=CALIBRATION_IMAGES)[0],
        verification=(images, labels),
        progress=print,
    )
    file = out / "model_int8.tflite"
    tflite.save(conversion, file, class_names=result.classes)
    draw(images, labels, conversion, result.classes, out / "predictions.png")

    print("\n3. What came out\n")
    print(f"{'phase':>5}{'image size':>12}{'steps':>8}{'seconds':>9}{'held-out top-1':>16}")
    for p in result.phases:
        print(f"{p.number:>5}{p.image_size:>9} px{p.steps:>8}{p.seconds:>9.0f}{p.accuracy:>16.2%}")
    print(f"\n{conversion.report}\n")
    print(f"{len(training.skipped)} images skipped" if training.skipped else "", end="")
    print(
        f"{result.model_path}: the network, loads in any Keras\n"
        f"{file}: the same for a phone, in int8; {file}.html: what it is worth\n"
        f"{result.curves_path}: how it learned\n"
        f"{out / 'predictions.png'}: {PICTURED} held-out images and what int8 says\n"
        f"{time.monotonic() - began:.0f} s in all"
    )


def open_images(data, seed):
    """(training, held-out) sources; a third is held out."""
    from tpu_train.input_pipeline.data_loading import from_arrays, open_data, split

    if data != "digits":
        return open_data(data, holdout=1 / 3, seed=seed)
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return split(from_arrays("digits", images, digits.target, "0123456789"), 1 / 3, seed)


def pixels(source, size, limit=None):
    """uint8 images (n, size, size, 3) and labels (n,), spread evenly over a source."""
    from tpu_train.input_pipeline.batches import evaluation_batches

    count = min(source.examples, limit or source.examples)
    chosen = source.take(np.linspace(0, source.examples - 1, count).astype(int))
    batches = list(evaluation_batches(chosen, size, 64, replicas=1).as_numpy_iterator())
    joined = {k: np.concatenate([b[k] for b in batches])[:count] for k in ("image", "label")}
    return joined["image"], joined["label"]


def draw(images, labels, conversion, classes, path):
    """Held-out images of as many classes as there is room for, titled with int8's answer."""
    from matplotlib.figure import Figure

    from tflite import litert

    chosen = np.random.default_rng(0).permutation(len(images))[:PICTURED]
    scores = litert.scores(litert.interpreter(conversion.tflite), images[chosen])
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    for axes, index, score in zip(figure.subplots(3, 4).flat, chosen, scores):
        answer = int(score.argmax())
        right = answer == labels[index]
        axes.imshow(images[index])
        axes.set_axis_off()
        truth = "" if right else f", is {classes[labels[index]]}"
        axes.set_title(
            f"{classes[answer]} ({score[answer]:.0%}){truth}", color="black" if right else "tab:red"
        )
    figure.suptitle("What the int8 file says to images it has not seen (mistakes in red)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
