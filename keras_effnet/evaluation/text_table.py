"""An evaluation as lines of text for the terminal, at most 100 columns wide."""

from __future__ import annotations

import numpy as np

from keras_effnet.evaluation.summary import Evaluation

_LISTED = 5  # classes and confusions


def table_lines(evaluation: Evaluation) -> list[str]:
    """The metrics, the classes with the lowest F1 and the largest confusions."""
    m = evaluation.classes
    low, high = evaluation.loss_interval
    interval = f"{low:.4f} to {high:.4f} (95 %)" if low == low else ""
    lines = [_share("top-1", evaluation.top1)]
    if evaluation.top5 is not None:
        lines.append(_share("top-5", evaluation.top5))
    lines.append(_row("loss", f"{evaluation.loss:.4f}", interval))
    lines.append(_row("", "", evaluation.loss_definition))
    if evaluation.is_multi_label:
        micro = evaluation.classes.micro()
        lines.append(_row("mAP", f"{m.mean_average_precision:.2%}", "mean over the classes"))
        lines.append(_row("micro F1", f"{micro['f1']:.2%}", _precision_recall(micro)))
    macro = m.macro()
    lines.append(_row("macro F1", f"{macro['f1']:.2%}", _precision_recall(macro)))
    c = evaluation.calibration
    note = f"expected calibration error; confidence minus accuracy {100 * c.overconfidence:+.1f}"
    lines.append(_row("calibration", f"{c.ece:.2%}", f"{note} points"))
    lines += ["", *_class_lines(evaluation)]
    confusions = evaluation.largest_confusions(_LISTED)
    if len(confusions):
        lines += ["", "largest confusions"]
        for label, prediction, count in confusions:
            names = evaluation.class_names
            lines.append(f"  {count:>7,}  {_cut(names[label])} as {_cut(names[prediction])}")
    return lines


def _class_lines(evaluation):
    m = evaluation.classes
    present = evaluation.present[m.count[evaluation.present] > 0]
    order = present[np.lexsort((-m.count[present], m.f1[present]))][:_LISTED]
    lines = [f"{'lowest F1':<28}{'images':>8}{'precision':>11}{'recall':>9}{'F1':>9}"]
    for c in order:
        rates = [_percent(v[c]) for v in (m.precision, m.recall, m.f1)]
        name = _cut(evaluation.class_names[c], 26)
        lines.append(f"  {name:<26}{m.count[c]:>8,}{rates[0]:>11}{rates[1]:>9}{rates[2]:>9}")
    return lines


def _row(name, value, note):
    return f"{name:<14}{value:>10}  {note}".rstrip()


def _share(name, share):
    return _row(name, f"{share.value:.2%}", f"{share.low:.2%} to {share.high:.2%} (95 %)")


def _precision_recall(means):
    return f"precision {means['precision']:.2%}, recall {means['recall']:.2%}"


def _percent(value):
    return "" if np.isnan(value) else f"{value:.1%}"


def _cut(name, most=36):
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
