"""What a pretrained body is worth: the second half of CIFAR-10's classes from 100 images each.

``python examples/transfer.py --data=cifar10 --out=run`` trains an EfficientNetV2-B0 on the first
five classes (25,000 images), then learns the other five from a few images each, once from scratch
and once from the trained body, three times each, and compares on those classes' 5,000 test images
(60 % against 71 %: docs/results/transfer.md). Under an hour on two busy CPU cores; ``--out`` keeps
the trained body, and a second run takes it from there.
"""

import argparse
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

HOW_TO_GET_IT = (
    "it needs CIFAR-10 as TFRecord shards (train-*, validation-*: JPEG in image/encoded, the class "
    "counted from 1 in image/class/label) and the ten names in labels.txt. Download "
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and write it so, e.g. with "
    "tf.io.TFRecordWriter"
)
FIRST_HALF, SECOND_HALF = range(0, 5), range(5, 10)


def main(argv=None):
    """Runs it all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's TFRecord shards")
    parser.add_argument("--out", default="transfer-out", help="folder for what comes out")
    parser.add_argument("--model", default="efficientnetv2-b0", help="a name of `effnet models`")
    parser.add_argument("--image-size", type=int, default=48, help="pixels a side at the end")
    parser.add_argument("--pretrain-epochs", type=float, default=6)
    parser.add_argument("--images-per-class", type=int, default=100, help="of the second half")
    parser.add_argument("--epochs", type=int, default=40, help="on the second half's few images")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions on the second half")
    parser.add_argument("--device", default="auto", help="as effnet-train's")
    options = parser.parse_args(argv)
    try:
        run(options)
    except ValueError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


def pretrain(options, strategy, classes, images, labels, test_images, test_labels):
    """The path of a model trained on the first half; one that is there already is taken."""
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.recipes.table import find_recipe
    from tpu_train.training.run import train

    folder = pathlib.Path(options.out) / "pretrained"
    if (folder / "model.keras").is_file():
        print(f"taking {folder / 'model.keras'}")
        return folder / "model.keras"
    recipe = dataclasses.replace(
        find_recipe("photos"),
        model=options.model,
        epochs=options.pretrain_epochs,
        batch_size=128,
        phases=2,
        image_size_first=min(34, options.image_size),  # below 33 the last stage has one pixel only
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
    training = from_arrays("CIFAR-10, first half", images, labels, classes)
    held_out = from_arrays("CIFAR-10, first half, test", test_images, test_labels, classes)
    result = train(recipe, training, held_out, folder, strategy)
    print(f"pretrained: {result.accuracy:.2%} of the first half's test images")
    return pathlib.Path(result.model_path)


def run(options):
    """Pretrains, transfers, compares."""
    for flag in ("images_per_class", "epochs", "seeds"):
        if getattr(options, flag) < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {getattr(options, flag)}: give 1 or more")
    classes, train_set, test_set = read(options.data)
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy(options.device)  # before any other use of a device
    began = time.monotonic()
    names, images, labels = half(classes, *train_set, FIRST_HALF)
    body = pretrain(
        options, strategy, names, images, labels, *half(classes, *test_set, FIRST_HALF)[1:]
    )

    names, images, labels = half(classes, *train_set, SECOND_HALF)
    images, tests = resized(images, options.image_size), half(classes, *test_set, SECOND_HALF)
    tests = resized(tests[1], options.image_size), tests[2]
    scores = {"from scratch": [], "new head on the frozen body": [], "fine-tuned": []}
    for seed in range(options.seeds):
        few = sample(labels, options.images_per_class, seed)
        for way, accuracy in (
            *from_scratch(options, seed, images[few], labels[few], tests).items(),
            *from_body(options, seed, body, images[few], labels[few], tests).items(),
        ):
            scores[way].append(accuracy)
            print(f"seed {seed}: {accuracy:.2%} {way}", flush=True)
    print(
        f"\n{', '.join(names)}: {options.images_per_class} images each to learn from, "
        f"{len(tests[1])} to test on, {options.seeds} seeds\n"
    )
    for way, values in scores.items():
        print(f"{way:<30}{np.mean(values):>8.2%}  ({min(values):.2%} to {max(values):.2%})")
    record = {**vars(options), "accuracy": scores, "seconds": round(time.monotonic() - began)}
    (pathlib.Path(options.out) / "transfer.json").write_text(json.dumps(record, indent=1))


def from_scratch(options, seed, images, labels, tests):
    """{way: accuracy} of a network that has seen nothing but these images."""
    import keras

    import keras_effnet

    keras.utils.set_random_seed(seed)
    size = options.image_size
    model = keras_effnet.create_model(
        options.model,
        input_shape=(size, size, 3),
        classes=len(SECOND_HALF),
        drop_path_rate=0.1,
        classifier_activation=None,
    )
    learn(model, images, labels, options.epochs, rate=2e-3, seed=seed)
    return {"from scratch": accuracy(model, *tests)}


def from_body(options, seed, path, images, labels, tests):
    """{way: accuracy} of the trained body: first under a new head alone, then trained itself."""
    import keras

    from keras_effnet.finetuning import freeze, with_new_head

    keras.utils.set_random_seed(seed)
    trained = keras.saving.load_model(path, compile=False)
    model = with_new_head(trained, len(SECOND_HALF), activation=None)
    head_epochs = max(1, options.epochs // 4)
    freeze(model, up_to="top")
    learn(model, images, labels, head_epochs, rate=1e-2, seed=seed)
    scores = {"new head on the frozen body": accuracy(model, *tests)}
    freeze(model, up_to="block2")
    learn(model, images, labels, options.epochs - head_epochs, rate=5e-4, seed=seed)
    return {**scores, "fine-tuned": accuracy(model, *tests)}


def learn(model, images, labels, epochs, rate, seed, batch_size=50):
    """Trains what is not frozen: AdamW, cosine, flips and shifts."""
    import keras
    import tensorflow as tf

    if epochs < 1:
        return
    size, channels = images.shape[1], images.shape[3]

    def vary(image, label):
        wide = tf.pad(image, [[size // 8] * 2, [size // 8] * 2, [0, 0]], "REFLECT")
        image = tf.image.random_crop(wide, [size, size, channels])
        return tf.image.random_flip_left_right(image), label

    batch_size = min(batch_size, len(images))
    batches = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=seed)
        .map(vary, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )
    steps = epochs * (len(images) // batch_size)
    model.compile(  # anew in each phase: Keras reads here what trains
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(rate, steps), weight_decay=0.05
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA is slow on a CPU
    )
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)  # the batches are, already


def accuracy(model, images, labels):
    """Share of 1."""
    return float((model.predict(images, batch_size=250, verbose=0).argmax(-1) == labels).mean())


def sample(labels, count, seed):
    """Indices of `count` images of each class."""
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)]
    )


def resized(images, size):
    """uint8 images of another size, bilinearly, as training and evaluation do."""
    import tensorflow as tf

    pieces = [images[i : i + 1000] for i in range(0, len(images), 1000)]
    moved = [
        tf.round(tf.image.resize(piece, [size, size])).numpy().astype(np.uint8) for piece in pieces
    ]
    return np.concatenate(moved)


def read(folder):
    """(class names, (training images uint8, labels), (test images, labels)) of the shards."""
    folder = pathlib.Path(folder)
    if not sorted(folder.glob("train-*")) or not sorted(folder.glob("validation-*")):
        raise ValueError(f"no TFRecord shards in {folder}: {HOW_TO_GET_IT}")
    classes = (folder / "labels.txt").read_text().split()
    return classes, read_split(folder, "train-*"), read_split(folder, "validation-*")


def read_split(folder, pattern):
    """(uint8 images, int labels counted from 0) of the shards that match."""
    import tensorflow as tf
    from PIL import Image

    images, labels = [], []
    for record in tf.data.TFRecordDataset(sorted(map(str, folder.glob(pattern)))):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        jpeg = features["image/encoded"].bytes_list.value[0]
        images.append(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        labels.append(features["image/class/label"].int64_list.value[0] - 1)
    return np.stack(images), np.array(labels)


def half(classes, images, labels, chosen):
    """(names, images, labels) of some of the classes, counted from 0 again."""
    own = np.isin(labels, chosen)
    return [classes[c] for c in chosen], images[own], labels[own] - chosen[0]


if __name__ == "__main__":
    sys.exit(main())
