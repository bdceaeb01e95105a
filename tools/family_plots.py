"""Plots docs/images/scaling.png and docs/images/pareto.png from the package's tables.

scaling.png: parameters and multiply-adds against phi, with the compound scaling rule as a line and
the published B0 to B8 as points. pareto.png: published top-1 (ImageNet-1k only) against parameters
and multiply-adds for V1, V2 and Lite. Takes two seconds; builds and trains nothing:

    python tools/family_plots.py
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from keras_effnet.model_cost import cost
from keras_effnet.scaling import family, scale
from keras_effnet.variants import VARIANTS

STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3a3f47",
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "xtick.color": "#3a3f47",
    "ytick.color": "#3a3f47",
    "axes.grid": True,
    "grid.color": "#e7e9ed",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}
# Distinguishable with colour blindness and in grey.
_FAMILIES = {  # family: legend, colour, marker
    "v1": ("EfficientNet", "#0072b2", "o"),
    "lite": ("EfficientNet-Lite", "#7f7f7f", "s"),
    "v2": ("EfficientNetV2", "#d55e00", "D"),
}
# Offset of a label from its point, in points: (right, up). Single networks are where lines cross.
_ABOVE, _LEFT, _RIGHT, _UP_LEFT, _DOWN_RIGHT = (0, 6), (-8, 0), (8, 0), (-5, 4), (5, -5)
_LABELS = {
    "parameters": {
        "v1": _DOWN_RIGHT,
        "lite": _RIGHT,
        "v2": _UP_LEFT,
        "efficientnet-b0": _UP_LEFT,
        "efficientnet-b1": _RIGHT,
        "efficientnet-b2": (8, 1),
        "efficientnet-b3": _UP_LEFT,
        "efficientnetv2-b3": (8, -3),
        "efficientnet-lite3": (8, -6),
        "efficientnet-lite4": (8, -4),
    },
    "macs": {
        "v1": _DOWN_RIGHT,
        "lite": _DOWN_RIGHT,
        "v2": _UP_LEFT,
        "efficientnet-b0": _UP_LEFT,
        "efficientnet-b1": _UP_LEFT,
        "efficientnet-b2": _UP_LEFT,
        "efficientnet-b3": _UP_LEFT,
        "efficientnetv2-b0": (7, -4),
        "efficientnetv2-b1": (2, 5),
        "efficientnetv2-b2": _ABOVE,
        "efficientnetv2-b3": _DOWN_RIGHT,
    },
}


def plot_scaling():
    """Figure of parameters and multiply-adds against phi: the rule as a line, the published
    networks as points.
    """
    members = family("efficientnet-b0")
    top = max(m.phi for m in members)
    phis = [i / 40 for i in range(int(top * 40) + 5)]
    rule = [cost(scale("efficientnet-b0", phi)) for phi in phis]
    panels = (("parameters", 1e6, "parameters, millions"), ("macs", 1e9, "multiply-adds, billions"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.3))
    for axis, (what, unit, title) in zip(axes, panels):
        colour = _FAMILIES["v1"][1]
        axis.plot(
            phis,
            [getattr(c, what) / unit for c in rule],
            color="#9aa1ab",
            linewidth=1.6,
            label="the rule",
        )
        values = [getattr(m.published_cost, what) / unit for m in members]
        axis.plot(
            [m.phi for m in members],
            values,
            "o",
            color=colour,
            markersize=7,
            label="published",
        )
        for m, value in zip(members, values):
            axis.annotate(
                m.published.name.split("-")[1].upper(),
                (m.phi, value),
                xytext=(7, -7),
                textcoords="offset points",
                ha="left",
                va="center",
                color=colour,
            )
        axis.set_yscale("log")
        axis.set_ylim(min(values) / 1.45, max(values) * 1.5)
        _plain_ticks(axis.yaxis, values)
        axis.set_xlim(-0.4, top + 0.9)
        axis.set_xticks(range(int(top) + 1))
        axis.set_xlabel("φ")
        axis.set_title(title)
    axes[1].legend(loc="lower right", frameon=False)
    figure.tight_layout(w_pad=2)
    return figure


def plot_pareto():
    """Figure of published top-1 against parameters and multiply-adds, one line per family."""
    panels = (("parameters", 1e6, "parameters, millions"), ("macs", 1e9, "multiply-adds, billions"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.8), sharey=True)
    for axis, (what, unit, title) in zip(axes, panels):
        every = []
        for name, (legend, colour, marker) in _FAMILIES.items():
            variants = [v for v in VARIANTS.values() if v.family.name == name and v.top1]
            counts = [getattr(cost(v), what) / unit for v in variants]
            every += counts
            axis.plot(
                counts,
                [v.top1 for v in variants],
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=1.4,
                label=legend,
            )
            for v, count in zip(variants, counts):
                dx, dy = _LABELS[what].get(v.name, _LABELS[what][name])
                axis.annotate(
                    v.name.split("-")[1].upper().replace("LITE", "Lite"),
                    (count, v.top1),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha="center" if abs(dx) < 4 else "left" if dx > 0 else "right",
                    va="center" if abs(dy) < 7 and abs(dx) > 5 else "bottom" if dy > 0 else "top",
                    color=colour,
                    fontsize=10,
                )
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis, every)
        axis.set_xlim(min(every) / 1.5, max(every) * 1.3)
        axis.set_xlabel(title)
    axes[0].set_ylim(74.4, 86.4)
    axes[0].set_ylabel("ImageNet top-1, %")
    axes[1].legend(loc="lower right", frameon=False)
    figure.tight_layout(w_pad=2)
    return figure


def _plain_ticks(axis, values):
    """1, 2, 5, 10 ... instead of powers of ten."""
    steps = [m * 10**e for e in range(-2, 4) for m in (1, 2, 5)]
    axis.set_major_locator(
        FixedLocator([s for s in steps if min(values) / 2.2 < s < max(values) * 2])
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def main(argv=None):
    """Writes both plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    docs = pathlib.Path(__file__).resolve().parents[1] / "docs"
    parser.add_argument("--out", type=pathlib.Path, default=docs / "images", help="output folder")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, plot in (("scaling", plot_scaling), ("pareto", plot_pareto)):
            figure = plot()
            path = options.out / f"{name}.png"
            figure.savefig(path, dpi=160, metadata={"Software": None})  # reproducible bytes
            plt.close(figure)
            print(path)


if __name__ == "__main__":
    main()
