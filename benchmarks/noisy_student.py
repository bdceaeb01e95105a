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

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from benchmarks.finetuning import make_parser, write_splits


def main():
    """Writes `out`/labeled/train, `out`/labeled/validation and `out`/unlabeled."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--unlabeled", type=int, default=10_000, help="unlabeled images")
    args = parser.parse_args()
    from tpu_train.input_pipeline.data_loading import open_data

    training, test = open_data(args.data, holdout=0.2, seed=0)
    others = write_splits(training, test, args, f"{args.out}/labeled")
    folder = pathlib.Path(args.out, "unlabeled")
    folder.mkdir(parents=True, exist_ok=True)
    for i in others[: args.unlabeled]:
        (folder / f"{i:05d}.jpg").write_bytes(training.read(i).numpy())


if __name__ == "__main__":
    main()
