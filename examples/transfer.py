"""Compares training from scratch with transfer learning on 100 images per class.

``python examples/transfer.py --data=cifar10 --out=run`` trains an EfficientNetV2-B0 on the first
five classes of CIFAR-10 (25,000 images). It then trains on 100 images of each of the other five
classes, from random weights and from the pretrained backbone, with three seeds, and evaluates on
their 5,000 test images: 60 % from scratch, 71 % fine-tuned (docs/results/transfer.md). Takes up to
an hour on two CPU cores. A second run with the same ``--out`` reuses the pretrained model.
"""

import dataclasses
import io
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

import numpy as np

from keras_effnet.arguments import ArgumentParser

DATA_FORMAT = (
    "the folder must hold CIFAR-10 as TFRecord shards train-* and validation-*, with a JPEG in "
    "image/encoded and the class, counted from 1, in image/class/label; and the ten class names "
    "in labels.txt. Download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and convert "
    "it, for example with tf.io.TFRecordWriter"
)
SOURCE_CLASSES, TARGET_CLASSES = range(0, 5), range(5, 10)


def main(argv=None):
    """Runs the comparison; returns the exit status."""
    parser = ArgumentParser(prog="transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with CIFAR-10 as TFRecord shards")
    parser.add_argument("--out", default="transfer-out", help="output folder")
    parser.add_argument("--model", default="efficientnetv2-b0", help="a name of `effnet models`")
    parser.add_argument("--image_size", type=int, default=48, help="final image size in pixels")
    parser.add_argument("--pretrain_epochs", type=float, default=6, help="on the source classes")
    parser.add_argument("--images_per_class", type=int, default=100, help="of the target classes")
    parser.add_argument("--epochs", type=int, default=40, help="on the target classes")
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu, tpu: see effnet-train")
    try:
        run(parser.parse_args(argv))
    except ValueError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


def pretrain(options, strategy, classes, images, labels, test_images, test_labels):
    """The path of a model trained on the source classes; an existing one is reused."""
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.recipes.table import find_recipe
    from tpu_train.training.run import train

    folder = pathlib.Path(options.out) / "pretrained"
    if (folder / "model.keras").is_file():
        print(f"reusing {folder / 'model.keras'}")
        return folder / "model.keras"
    recipe = dataclasses.replace(
        find_recipe("photos"),
        model=options.model,
        epochs=options.pretrain_epochs,
        batch_size=128,
        phases=2,
        image_size_first=min(34, options.image_size),  # at 32 pixels the last stage has one pixel
        image_size_last=options.image_size,
        image_size_eval=options.image_size,
        randaugment_magnitude_first=2,
        randaugment_magnitude_last=4,
        mixup_last=0.0,
        dropout_first=0.0,
        dropout_last=0.1,
        drop_path_first=0.1,
        drop_path_last=0.1,
        random_crop_min_area=0.5,
        warmup_epochs=1,
        ema_decay=0.99,
    )
    training = from_arrays("CIFAR-10, source classes", images, labels, classes)
    held_out = from_arrays("CIFAR-10, source classes, test", test_images, test_labels, classes)
    result = train(recipe, training, held_out, folder, strategy)
    print(f"pretrained: {result.accuracy:.2%} top-1 on the source classes' test images")
    return pathlib.Path(result.model_path)


def run(options):
    """Pretrains on the source classes, trains on the target classes and prints the accuracies."""
    for flag in ("images_per_class", "epochs", "seeds"):
        if getattr(options, flag) < 1:
            raise ValueError(f"--{flag} must be 1 or more, got {getattr(options, flag)}")
    classes, train_set, test_set = read(options.data)
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy(options.device)  # before any other TensorFlow call
    began = time.monotonic()
    names, images, labels = select_classes(classes, *train_set, SOURCE_CLASSES)
    tests = select_classes(classes, *test_set, SOURCE_CLASSES)[1:]
    pretrained = pretrain(options, strategy, names, images, labels, *tests)

    names, images, labels = select_classes(classes, *train_set, TARGET_CLASSES)
    images = resized(images, options.image_size)
    _, test_images, test_labels = select_classes(classes, *test_set, TARGET_CLASSES)
    tests = resized(test_images, options.image_size), test_labels
    scores = {"from scratch": [], "frozen backbone": [], "fine-tuned": []}
    for seed in range(options.seeds):
        few = sample(labels, options.images_per_class, seed)
        results = {
            **from_scratch(options, seed, images[few], labels[few], tests),
            **from_pretrained(options, seed, pretrained, images[few], labels[few], tests),
        }
        for method, top1 in results.items():
            scores[method].append(top1)
            print(f"seed {seed}: {top1:.2%} {method}", flush=True)
    print(
        f"\n{', '.join(names)}: {options.images_per_class} training images per class, "
        f"{len(test_labels)} test images, {options.seeds} seeds\n"
    )
    for method, values in scores.items():
        print(f"{method:<20}{np.mean(values):>8.2%}  ({min(values):.2%} to {max(values):.2%})")
    record = {**vars(options), "accuracy": scores, "seconds": round(time.monotonic() - began)}
    (pathlib.Path(options.out) / "transfer.json").write_text(json.dumps(record, indent=1))


def from_scratch(options, seed, images, labels, tests):
    """{method: top-1} of a network trained on these images only."""
    import keras

    import keras_effnet

    keras.utils.set_random_seed(seed)
    size = options.image_size
    model = keras_effnet.create_model(
        options.model,
        input_shape=(size, size, 3),
        classes=len(TARGET_CLASSES),
        drop_path_rate=0.1,
        classifier_activation=None,
    )
    fit(model, images, labels, options.epochs, rate=2e-3, seed=seed)
    return {"from scratch": accuracy(model, *tests)}


def from_pretrained(options, seed, path, images, labels, tests):
    """{method: top-1} of the pretrained backbone: frozen under a new head, then fine-tuned."""
    import keras

    from keras_effnet.finetuning import freeze, with_new_head

    keras.utils.set_random_seed(seed)
    pretrained = keras.saving.load_model(path, compile=False)
    model = with_new_head(pretrained, len(TARGET_CLASSES), activation=None)
    head_epochs = max(1, options.epochs // 4)
    freeze(model, up_to="top")
    fit(model, images, labels, head_epochs, rate=1e-2, seed=seed)
    scores = {"frozen backbone": accuracy(model, *tests)}
    freeze(model, up_to="block2")
    fit(model, images, labels, options.epochs - head_epochs, rate=5e-4, seed=seed)
    return {**scores, "fine-tuned": accuracy(model, *tests)}


def fit(model, images, labels, epochs, rate, seed, batch_size=50):
    """Trains the unfrozen layers: AdamW, cosine decay, random flips and shifts."""
    import keras
    import tensorflow as tf

    if epochs < 1:
        return
    size, channels = images.shape[1], images.shape[3]

    def augment(image, label):
        padded = tf.pad(image, [[size // 8] * 2, [size // 8] * 2, [0, 0]], "REFLECT")
        image = tf.image.random_crop(padded, [size, size, channels])
        return tf.image.random_flip_left_right(image), label

    batch_size = min(batch_size, len(images))
    batches = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=seed)
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )
    steps = epochs * (len(images) // batch_size)
    model.compile(  # after each change of what is frozen: Keras reads it here
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(rate, steps), weight_decay=0.05
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA is slow on a CPU
    )
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)  # tf.data shuffles


def accuracy(model, images, labels):
    """Top-1 accuracy, 0 to 1."""
    return float((model.predict(images, batch_size=250, verbose=0).argmax(-1) == labels).mean())


def sample(labels, count, seed):
    """Indices of `count` random images of each class."""
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)]
    )


def resized(images, size):
    """uint8 images (n, size, size, 3), resized bilinearly as in training and evaluation."""
    import tensorflow as tf

    chunks = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    return np.concatenate(
        [
            tf.round(tf.image.resize(chunk, [size, size])).numpy().astype(np.uint8)
            for chunk in chunks
        ]
    )


def read(folder):
    """(class names, (training images, labels), (test images, labels)) of a folder of shards."""
    folder = pathlib.Path(folder)
    if not sorted(folder.glob("train-*")) or not sorted(folder.glob("validation-*")):
        raise ValueError(f"no TFRecord shards in {folder}: {DATA_FORMAT}")
    classes = (folder / "labels.txt").read_text().split()
    return classes, read_split(folder, "train-*"), read_split(folder, "validation-*")


def read_split(folder, pattern):
    """(uint8 images (n, 32, 32, 3), labels (n,) counted from 0) of the matching shards."""
    import tensorflow as tf
    from PIL import Image

    images, labels = [], []
    for record in tf.data.TFRecordDataset(sorted(map(str, folder.glob(pattern)))):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        jpeg = features["image/encoded"].bytes_list.value[0]
        images.append(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)
    return np.stack(images), np.array(labels)


def select_classes(classes, images, labels, selected):
    """(class names, images, labels) of a range of classes; the labels start at 0."""
    mask = np.isin(labels, selected)
    return [classes[c] for c in selected], images[mask], labels[mask] - selected[0]


if __name__ == "__main__":
    sys.exit(main())
