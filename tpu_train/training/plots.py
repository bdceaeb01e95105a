"""Plots of a run's metrics."""

from __future__ import annotations

import json
import os

from keras_effnet.atomic_write import replacing


def plot_curves(metrics_path: str | os.PathLike[str], png_path: str | os.PathLike[str]) -> None:
    """Writes a PNG of loss and accuracies over steps, phases shaded, from a ``metrics.jsonl``."""
    from matplotlib.figure import Figure  # slow to import, and needed only at the end of a run

    with open(metrics_path) as file:
        records = [json.loads(line) for line in file]
    steps = [r for r in records if "loss" in r]
    evaluations = [r for r in records if "evaluation_accuracy_ema" in r]
    phase_ends = [r for r in records if "seconds" in r]

    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = [r["step"] for r in steps]
    top.plot(x, [r["loss"] for r in steps], color="tab:blue", label="training loss")
    top.set_ylabel("loss")
    bottom.plot(x, [100 * r["accuracy"] for r in steps], color="tab:blue", label="training")
    for axes, key, scale, label, marker in (
        (top, "evaluation_loss_ema", 1, "evaluation, EMA weights", "o"),
        (top, "evaluation_loss_non_ema", 1, "evaluation, non-EMA weights", "x"),
        (bottom, "evaluation_accuracy_ema", 100, "evaluation, EMA weights", "o"),
        (bottom, "evaluation_accuracy_non_ema", 100, "evaluation, non-EMA weights", "x"),
        (bottom, "evaluation_top5_ema", 100, "evaluation, top-5, EMA weights", "^"),
    ):
        points = [(r["step"], scale * r[key]) for r in evaluations if key in r]
        if points:
            axes.plot(*zip(*points), marker, label=label, clip_on=False, zorder=3)
    bottom.set_ylabel("accuracy, %")
    bottom.set_xlabel("step")
    first = 0
    for r in phase_ends:
        for axes in (top, bottom):
            axes.axvspan(
                first, r["step"], alpha=0.06 if r["phase"] % 2 else 0.14, color="grey", lw=0
            )
        long_title = f"phase {r['phase']}: {r['image_size']} px"
        top.text(
            (first + r["step"]) / 2,
            1.01,
            long_title if len(phase_ends) <= 4 else r["image_size"],
            transform=top.get_xaxis_transform(),
            ha="center",
        )
        first = r["step"]
    bottom.set_xlim(0, first)
    top.legend(loc="upper right")
    bottom.legend(loc="lower right")
    with replacing(png_path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
