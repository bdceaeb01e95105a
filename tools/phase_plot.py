"""Plots the training phases of a recipe: ``python tools/phase_plot.py --out=phases.png``."""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tpu_train.recipes.phases import make_phases
from tpu_train.recipes.table import RECIPES

EXAMPLES = 1281167  # training images of ImageNet-1k
PANELS = (
    ("image size, px", "image_size"),
    ("RandAugment magnitude", "magnitude"),
    ("dropout rate", "dropout_rate"),
)


def plot(recipe_name, path):
    """Writes a PNG with one panel for each setting that changes from phase to phase."""
    recipe = RECIPES[recipe_name]
    phases = make_phases(recipe, EXAMPLES)
    last_epoch = recipe.epochs
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 2.6), layout="constrained")
    for axis, (title, field) in zip(axes, PANELS):
        for phase in phases:
            start, end = (
                step * last_epoch / phases[-1].end_step
                for step in (phase.first_step, phase.end_step)
            )
            value = getattr(phase, field)
            axis.fill_between([start, end], [value, value], alpha=0.35, color="#3f51b5", lw=0)
            axis.plot([start, end], [value, value], color="#3f51b5", lw=2)
            axis.annotate(
                f"{value:.3g}",
                ((start + end) / 2, value),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
            )
        axis.set(title=title, xlabel="epoch", xlim=(0, last_epoch), ylim=(0, None))
        axis.margins(y=0.15)
        axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="efficientnetv2-s-paper", choices=sorted(RECIPES))
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    plot(options.recipe, options.out)
