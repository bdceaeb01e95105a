"""Plots why int8 loses accuracy, and what the converter's steps do, for docs/tflite.md.

``int8-ranges.png`` has the histograms of two tensors with the ranges that 256 levels span;
``int8-sqnr.png`` the SQNR of each block after each kind of step.

    python tools/int8_plot.py --model=my.keras --calibration=cifar10 --out=docs/images
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import tflite
from keras_effnet.litert.classifier import open_classifier
from tflite.evaluation.sqnr import group_of, sqnr_by_block
from tflite.flatbuffer.graph import Graph, swishes
from tflite.quantization.range_estimation import estimate_ranges

IMAGES = 256
SQNR_IMAGES = 32
COLORS = {"min-max": "#c62828", "estimated": "#3f51b5", "all steps": "#2e7d32"}


def plot_ranges(histograms, ranges, tensors, path):
    """Writes the histograms of tensors, with the ranges of both estimators."""
    figure, axes = plt.subplots(1, len(tensors), figsize=(9, 3), layout="constrained")
    for axis, (title, name) in zip(axes, tensors.items()):
        histogram = histograms[name]
        filled = histogram.counts > 0
        share = 100 * histogram.counts[filled] / histogram.counts.sum()
        axis.bar(histogram.centers[filled], share, histogram.width, color="#9fa8da")
        for label in ("min-max", "estimated"):
            low, high = (ranges[label][name][end] for end in ("min", "max"))
            text = f"{label}: {low:.3g} to {high:.3g}, level every {(high - low) / 255:.2g}"
            axis.axvspan(low, high, alpha=0.08, color=COLORS[label])
            axis.axvline(low, color=COLORS[label], label=text)
            axis.axvline(high, color=COLORS[label])
        axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("value")
        axis.legend(fontsize=7, loc="upper right")
    axes[0].set_ylabel("share of the values, %")
    figure.savefig(path, dpi=110)


def plot_sqnr(curves, path):
    """Writes the SQNR of the blocks' outputs of several models: {label: blocks}."""
    figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
    for label, blocks in curves.items():
        blocks = [block for block in blocks if block.name != "input"]  # pixels are exact
        axis.plot(
            [block.name for block in blocks],
            [block.sqnr_db for block in blocks],
            "o-",
            color=COLORS[label],
            label=label,
        )
    axis.set_ylabel("SQNR of the block's output, dB")
    axis.tick_params(axis="x", rotation=60, labelsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)


def largest_reduction(ranges, names):
    """The tensor of `names` whose estimated range is the smallest part of its min-max range."""

    def part(name):
        spans = [ranges[which][name] for which in ("estimated", "min-max")]
        estimated, whole = (span["max"] - span["min"] for span in spans)
        return estimated / whole if whole else 1.0

    return min(names, key=part)


def main(argv=None):
    """Converts the model once, and writes both plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help=".keras file of a trained network")
    parser.add_argument("--calibration", required=True, help="images like those of its training")
    parser.add_argument("--out", required=True, help="folder of the plots")
    options = parser.parse_args(argv)
    model = tflite.load_keras(options.model)
    size = model.input_shape[1:3]
    images = np.asarray(tflite.load_images(options.calibration, size, limit=IMAGES).images)
    float32_model = tflite.export_float32(model)
    histograms = tflite.collect_histograms(float32_model, images)
    names = {"min-max": "minmax", "estimated": "swish"}
    ranges = {
        label: estimate_ranges(float32_model, histograms, name) for label, name in names.items()
    }
    graph = Graph(float32_model)
    before_swish = {graph.name(swish.z) for swish in swishes(graph)}
    others = set(histograms) - before_swish - {graph.name(graph.input)}
    tensors = {
        "input of a swish": largest_reduction(ranges, sorted(before_swish)),
        "another tensor": largest_reduction(ranges, sorted(others)),
    }
    tensors = {f"{group_of(name)}, {title}": name for title, name in tensors.items()}
    plot_ranges(histograms, ranges, tensors, os.path.join(options.out, "int8-ranges.png"))

    plan = tflite.make_plan(tflite.read_ops(float32_model), "int8")
    converted = {label: tflite.quantize(float32_model, ranges[label], plan) for label in names} | {
        "all steps": tflite.convert(model, calibration=images).tflite_model
    }
    reference = open_classifier(float32_model)
    curves = {
        label: sqnr_by_block(reference, open_classifier(content), images[:SQNR_IMAGES])
        for label, content in converted.items()
    }
    plot_sqnr(curves, os.path.join(options.out, "int8-sqnr.png"))
    for label, blocks in curves.items():
        print(label, ", ".join(f"{block.name} {block.sqnr_db:.1f}" for block in blocks))


if __name__ == "__main__":
    main()
