"""Rows of the tables of metrics in a card, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_effnet.evaluation.intervals import wilson


def metric_table(metrics: Mapping) -> list[tuple[str, str, str]]:
    """(name, value, 95 % interval) of the metrics of an evaluation."""
    rows = [
        (name, _share(metrics[key]["value"]), _interval(metrics[key]))
        for key, name in (("top1", "top-1 accuracy"), ("top5", "top-5 accuracy"))
        if metrics[key]
    ]
    for name in ("precision", "recall", "f1"):
        rows.append((f"macro {'F1' if name == 'f1' else name}", _share(metrics["macro"][name]), ""))
    if metrics["mean_average_precision"] is not None:
        rows.append(("mean average precision", _share(metrics["mean_average_precision"]), ""))
    error = _number(metrics["expected_calibration_error"])
    rows.append(("expected calibration error", error, ""))
    bounds = metrics["loss_interval"]
    interval = f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
    return [*rows, ("loss", _number(metrics["loss"]), interval)]


def class_table(rows: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """(class, images, precision, recall, 95 % interval of the recall, F1) of every class."""
    table = []
    for row in rows:
        low, high = wilson(row["correct"], row["images"]) if row["images"] else (None, None)
        interval = "" if low is None else f"{low:.1%} to {high:.1%}"
        precision, recall, f1 = (_share(row[name]) for name in ("precision", "recall", "f1"))
        table.append((row["class"], f"{row['images']:,}", precision, recall, interval, f1))
    return table


def comparison_table(comparison: Mapping) -> list[tuple[str, str, str]]:
    """(name, float32 model, converted model) of a conversion."""
    float32, converted = comparison["float32"], comparison["converted"]
    rows = [
        (name, _share(float32[key]), _share(converted[key]))
        for key, name in (("top1", "top-1 accuracy"), ("top5", "top-5 accuracy"))
        if float32[key] is not None
    ]
    if comparison["drop_points"] is not None:
        low, high = comparison["drop_interval"]
        drop = f"{comparison['drop_points']:.2f} points (95 %: {low:.2f} to {high:.2f})"
        rows.append(("drop of top-1", "", drop))
    agreement = _share(comparison["agreement"])
    if comparison["agreement_interval"]:
        low, high = comparison["agreement_interval"]
        agreement += f" (95 %: {low:.1%} to {high:.1%})"
    rows.append(("same prediction", "", agreement))
    rows.append(("size in bytes", f"{float32['size']:,}", f"{converted['size']:,}"))
    latency = [f"{m['latency_ms']:.2f} ms" for m in (float32, converted)]
    return [*rows, ("latency", *latency)]


def _share(value):
    return "" if value is None else f"{value:.2%}"


def _number(value):
    return "undefined" if value is None else f"{value:.4f}"


def _interval(share):
    return f"{share['low']:.2%} to {share['high']:.2%}"
