"""Trains on real images, evaluates, converts to int8 and compares, in one command.

``make demo`` trains an EfficientNetV2-B0 from scratch on the 1,797 handwritten digits of
scikit-learn and holds out a third of them. ``make demo DATA=my_photos`` does the same with a folder
that has one folder of images per class. The output folder then holds the Keras model, the int8
model with its report, the training curves and a picture of predictions.
"""

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

import numpy as np

from keras_effnet.arguments import ArgumentParser
from keras_effnet.native_logs import filter_native_logs

CALIBRATION_IMAGES = 256
PREVIEW_IMAGES = 12


def main(argv=None):
    """Runs the demo; returns the exit status."""
    if argv is None:  # run as a program
        filter_native_logs()
    parser = ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default="digits", help="digits, a folder of class folders, or .npz"
    )
    parser.add_argument("--out", default="demo-out", help="output folder; replaced")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu, tpu: see effnet-train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="default: the recipe's")
    try:
        run(parser.parse_args(argv))
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def run(options):
    """Trains, converts, evaluates and draws predictions."""
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy(options.device)  # before any other TensorFlow call

    import dataclasses

    import keras

    import tflite
    from tpu_train.recipes.table import find_recipe
    from tpu_train.training.run import train

    start = time.monotonic()
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
        evaluation=(images, labels),
        log=print,
    )
    file = out / "model_int8.tflite"
    tflite.save(conversion, file, class_names=result.classes)
    draw(images, labels, conversion, result.classes, out / "predictions.png")

    print("\n3. Results\n")
    print(f"{'phase':>5}{'image size':>12}{'steps':>8}{'seconds':>9}{'held-out top-1':>16}")
    for phase in result.phases:
        print(
            f"{phase.number:>5}{phase.image_size:>9} px{phase.steps:>8}{phase.seconds:>9.0f}"
            f"{phase.accuracy:>16.2%}"
        )
    print(f"\n{conversion.report}\n")
    if training.skipped:
        print(f"{len(training.skipped)} images skipped")
    print(
        f"{result.model_path}: Keras model; loads without this package\n"
        f"{file}: int8 model for mobile devices\n"
        f"{file}.html: report, int8 compared with float32\n"
        f"{result.curves_path}: training curves\n"
        f"{out / 'predictions.png'}: int8 predictions of {PREVIEW_IMAGES} held-out images\n"
        f"{time.monotonic() - start:.0f} s in total"
    )


def open_images(data, seed):
    """(training, held-out) image sources; a third of the images is held out."""
    from tpu_train.input_pipeline.data_loading import from_arrays, open_data, split

    if data != "digits":
        return open_data(data, holdout=1 / 3, seed=seed)
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return split(from_arrays("digits", images, digits.target, "0123456789"), 1 / 3, seed)


def pixels(source, size, limit=None):
    """(uint8 images (n, size, size, 3), labels (n,)), at most `limit`, spread evenly."""
    from tpu_train.input_pipeline.batches import evaluation_batches

    count = min(source.examples, limit or source.examples)
    sample = source.take(np.linspace(0, source.examples - 1, count).astype(int))
    batches = list(evaluation_batches(sample, size, 64, replicas=1).as_numpy_iterator())
    joined = {k: np.concatenate([b[k] for b in batches])[:count] for k in ("image", "label")}
    return joined["image"], joined["label"]


def draw(images, labels, conversion, classes, path):
    """Writes a picture of random held-out images, titled with the int8 predictions."""
    from matplotlib.figure import Figure

    from keras_effnet.litert import runner

    sample = np.random.default_rng(0).permutation(len(images))[:PREVIEW_IMAGES]
    scores = runner.scores(conversion.tflite_model, images[sample])
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    for axes, index, score in zip(figure.subplots(3, 4).flat, sample, scores):
        prediction, label = int(score.argmax()), int(labels[index])
        axes.imshow(images[index])
        axes.set_axis_off()
        title = f"{classes[prediction]} ({score[prediction]:.0%})"
        if prediction == label:
            axes.set_title(title, color="black")
        else:
            axes.set_title(f"{title}, label: {classes[label]}", color="tab:red")
    figure.suptitle("Predictions of the int8 model on held-out images (errors in red)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
