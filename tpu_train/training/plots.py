"""The curves of a run as a picture, from its ``metrics.jsonl``."""

import json
import os


def plot_curves(metrics_path, png_path):
    """Draws loss and accuracies against steps, with the phases marked; writes `png_path`."""
    from matplotlib.figure import Figure  # here, so that training does not wait for it

    with open(metrics_path) as file:
        records = [json.loads(line) for line in file]
    steps = [r for r in records if "loss" in r]
    evaluations = [r for r in records if "evaluation_accuracy" in r]
    ends = [r for r in records if "seconds" in r]  # of phases

    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    at = [r["step"] for r in steps]
    top.plot(at, [r["loss"] for r in steps], color="tab:blue", label="training loss")
    top.set_ylabel("loss")
    bottom.plot(at, [100 * r["accuracy"] for r in steps], color="tab:blue", label="training")
    for key, label, marker in (
        ("evaluation_accuracy", "held out, averaged weights", "o"),
        ("evaluation_accuracy_raw", "held out, raw weights", "x"),
    ):
        at, values = [r["step"] for r in evaluations], [100 * r[key] for r in evaluations]
        bottom.plot(at, values, marker, label=label, clip_on=False, zorder=3)
    bottom.set_ylabel("accuracy, %")
    bottom.set_xlabel("step")
    first = 0
    for r in ends:
        for axes in (top, bottom):
            axes.axvspan(
                first, r["step"], alpha=0.06 if r["phase"] % 2 else 0.14, color="grey", lw=0
            )
        top.text(
            (first + r["step"]) / 2,
            1.01,
            f"phase {r['phase']}: {r['image_size']} px" if len(ends) <= 4 else r["image_size"],
            transform=top.get_xaxis_transform(),
            ha="center",
        )
        first = r["step"]
    bottom.set_xlim(0, first)
    top.legend(loc="upper right")
    bottom.legend(loc="lower right")
    partial = os.fspath(png_path) + ".partial"
    figure.savefig(partial, format="png", dpi=120)
    os.replace(partial, png_path)
