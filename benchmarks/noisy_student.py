"""Noisy Student training on CIFAR-10: writes the images, for docs/results/noisy-student.md.

Draws `--labels` images of every class from the training images, and writes them as class folders
beside the images of the evaluation: the test images, or, with `--validation`, 2,000 other training
images, so that settings are never chosen by the test images. `--unlabeled` other training images
are written into one folder, without their labels.

    python benchmarks/noisy_student.py --data=cifar10 --out=cifar --unlabeled=10000
    effnet-train --recipe=finetune --data=cifar/labeled --workdir=teacher ...
    effnet-train pseudo-label --model=teacher/model.keras --data=cifar/unlabeled --out=shards
    effnet-train --recipe=noisy-student-finetune --data=cifar/labeled --unlabeled=shards \
        --workdir=student ...
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from benchmarks.finetuning import TUNING_IMAGES, draw, write


def main():
    """Writes `out`/labeled/train, `out`/labeled/validation and `out`/unlabeled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as TFRecord shards")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--labels", type=int, default=40, help="labeled images per class")
    parser.add_argument("--unlabeled", type=int, default=10_000, help="unlabeled images")
    parser.add_argument("--test", type=int, default=10_000, help="test images, at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--validation", action="store_true", help="evaluate on training images")
    args = parser.parse_args()
    from tpu_train.input_pipeline.data_loading import open_data

    training, test = open_data(args.data, holdout=0.2, seed=0)
    labeled, others = draw(training.labels, args.labels, args.seed)
    write(training, labeled, f"{args.out}/labeled/train")
    if args.validation:
        write(training, others[:TUNING_IMAGES], f"{args.out}/labeled/validation")
    else:
        write(test, range(min(args.test, test.examples)), f"{args.out}/labeled/validation")
    folder = pathlib.Path(args.out, "unlabeled")
    folder.mkdir(parents=True, exist_ok=True)
    for i in others[TUNING_IMAGES:][: args.unlabeled]:
        (folder / f"{i:05d}.jpg").write_bytes(training.read(i).numpy())


if __name__ == "__main__":
    main()
