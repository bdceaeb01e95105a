"""The HTML page of an evaluation: one file without network access, scripts or other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from keras_effnet import html_elements as html
from keras_effnet.evaluation import charts
from keras_effnet.evaluation.multi_label import THRESHOLD
from keras_effnet.evaluation.summary import Evaluation

GENERATOR = "effnet evaluate"  # marks the pages of this module
_CLASSES = 40  # of the table; the CSV has all
_CONFUSIONS = 12
_UNREADABLE = 10


def render(
    evaluation: Evaluation,
    origin: Mapping,
    picture: Callable[[int], np.ndarray] | None = None,
) -> str:
    """The page.

    Args:
        evaluation: of a classifier.
        origin: "model", "data", "unreadable" (messages), "check" (the comparison with a published
            accuracy, or None) and "facts": {name: text} for the last section. The JSON has
            "model_sha256" of a model's file, too.
        picture: the uint8 image (height, width, 3) of a row of the outcomes; None: no pictures.
    """
    sections = (
        _head(evaluation, origin),
        _check(origin.get("check")),
        _cards(evaluation),
        _classes(evaluation),
        "" if evaluation.is_multi_label else _confusion_matrix(evaluation),
        _calibration(evaluation),
        _sheet(
            "Worst mistakes",
            "The images with the largest losses"
            if evaluation.is_multi_label
            else "Wrong images, "
            "those first whose label got the lowest probability. Look for wrong labels, too",
            evaluation,
            evaluation.worst,
            picture,
        ),
        _sheet(
            "Least certain",
            "The images whose two best classes are closest, right or wrong",
            evaluation,
            evaluation.least_certain,
            picture,
        ),
        _unreadable(origin.get("unreadable", ())),
        _facts(origin.get("facts", {})),
        "<footer>Confidence intervals are 95 %: Wilson's for proportions, the normal approximation "
        "for the loss. The JSON and CSV files next to this page have all numbers.</footer>",
    )
    title = f"{origin['model']} evaluated on {origin['data']}"
    return html.document(title, "\n".join(section for section in sections if section), GENERATOR)


def _head(evaluation, origin):
    top1 = evaluation.top1
    count = int((evaluation.classes.count > 0).sum())
    right = "one of the labels" if evaluation.is_multi_label else "the label"
    outputs = len(evaluation.class_names)
    classes = f"{count:,} classes" if count == outputs else f"{count:,} of {outputs:,} classes"
    return (
        f"<h1>{html.text(origin['model'])} <span class=soft>evaluated on</span> "
        f"{html.text(origin['data'])}</h1>\n"
        f"<p class=soft>{evaluation.images:,} images of {classes}, each counted once</p>\n"
        f"<p class=lead>The best class is {right} on <b>{top1.value:.1%}</b> of the images "
        f"(95&nbsp;%: {top1.low:.1%} to {top1.high:.1%}).</p>"
    )


def _check(check):
    if not check:
        return ""
    style = "good" if check["agrees"] else "bad"
    word = "agrees" if check["agrees"] else "differs"
    return f"<p><span class='tag {style}'>{word}</span> {html.text(check['message'])}</p>"


def _cards(evaluation):
    low, high = evaluation.loss_interval
    calibration, macro = evaluation.calibration, evaluation.classes.macro()
    cards = [_share_card("Top-1 accuracy", evaluation.top1, "The best class is the label.")]
    if evaluation.top5 is not None:
        meaning = "A right class is among the five best."
        cards.append(_share_card("Top-5 accuracy", evaluation.top5, meaning))
    cards += [
        html.card(
            "Loss",
            f"{evaluation.loss:.3f}",
            ("95 % confidence interval", f"{low:.3f} to {high:.3f}") if low == low else (),
            evaluation.loss_definition[0].upper() + evaluation.loss_definition[1:] + ".",
        ),
        html.card(
            "Macro F1",
            f"{macro['f1']:.2%}",
            (f"precision {macro['precision']:.1%},", f"recall {macro['recall']:.1%}"),
            "Means over the classes with images: every class counts the same.",
        ),
        html.card(
            "Calibration error",
            f"{calibration.ece:.2%}",
            (f"confidence minus accuracy {_signed(100 * calibration.overconfidence)} points",),
            "Expected calibration error: how far the confidence is from the share of right "
            "predictions.",
        ),
    ]
    if evaluation.is_multi_label:
        cards = [*_label_cards(evaluation.classes), *cards]
    return f"<div class=cards>{''.join(cards)}</div>"


def _label_cards(metrics):
    micro = metrics.micro()
    return [
        html.card(
            "mAP",
            f"{metrics.mean_average_precision:.2%}",
            (),
            "Average precision, mean over the classes with images. No threshold is involved.",
        ),
        html.card(
            "Micro F1",
            f"{micro['f1']:.2%}",
            (f"precision {micro['precision']:.1%},", f"recall {micro['recall']:.1%}"),
            f"Of all pairs of an image and a class, at a probability of {THRESHOLD}.",
        ),
    ]


def _share_card(title, share, meaning):
    ends = ("95 % confidence interval", f"{share.low:.2%} to {share.high:.2%}")
    return html.card(title, f"{share.value:.2%}", ends, meaning)


def _classes(evaluation):
    m = evaluation.classes
    present = evaluation.present[m.count[evaluation.present] > 0]
    keys = m.average_precision if evaluation.is_multi_label else m.f1
    order = present[np.lexsort((-m.count[present], keys[present]))]
    key = "average precision" if evaluation.is_multi_label else "F1"
    imperfect = int((keys[order] < 1).sum())
    shown = min(_CLASSES, len(order) if len(order) <= _CLASSES else imperfect)
    which = f"All {shown}" if shown == len(order) else f"{shown} of {len(order):,}"
    meaning = (
        f"{which} classes, those with the lowest {key} first. Precision: the share of its "
        "predictions that is right. Recall: the share of its images that is found."
    )
    header = ["Class", "Images", "Precision", "Recall", "F1"]
    if evaluation.is_multi_label:
        header += ["Average precision", "Best threshold", "F1 there"]
        meaning += (
            f" The first three at a probability of {THRESHOLD}; the best threshold has the largest "
            "F1 on these images, which is optimistic for others."
        )
    else:
        header += ["Most often taken for"]
    rows = []
    for c in order[:shown]:
        row = [html.text(evaluation.class_names[c]), f"{m.count[c]:,}"]
        row += [_percent(values[c]) for values in (m.precision, m.recall, m.f1)]
        if evaluation.is_multi_label:
            row += [_percent(m.average_precision[c]), f"{m.best_threshold[c]:.2f}"]
            row.append(_percent(m.best_f1[c]))
        else:
            row.append(f"<span class=wrap>{_taken_for(evaluation, c)}</span>")
        rows.append(row)
    numbers = range(1, 8) if evaluation.is_multi_label else range(1, 5)
    return html.section("Classes", meaning, html.table(header, rows, numbers))


def _taken_for(evaluation, c):
    cells = evaluation.confusions
    wrong = cells[(cells[:, 0] == c) & (cells[:, 1] != c)]
    if not len(wrong):
        return ""
    _, other, count = wrong[wrong[:, 2].argmax()]
    return f"{html.text(evaluation.class_names[other])} ({count:,})"


def _confusion_matrix(evaluation):
    present, names = evaluation.present, evaluation.class_names
    picture = charts.confusion_matrix(evaluation.confusions, present, names)
    rows = [
        [
            html.text(names[label]),
            html.text(names[prediction]),
            f"{count:,}",
            f"{count / evaluation.classes.count[label]:.1%}",
        ]
        for label, prediction, count in evaluation.largest_confusions(_CONFUSIONS)
    ]
    meaning = (
        "Labels in rows, predictions in columns. The colour is the share of the label's images: "
        "green on the diagonal, red beside it."
    )
    body = f"<div class='plot scroll'>{picture}</div>" if picture else ""
    if not picture:
        meaning = f"{len(present):,} classes are too many for a picture; the CSV file has them."
    if rows:
        header = ["Label", "Predicted as", "Images", "Of the label's"]
        body += f"<div style='height:.9rem'></div>{html.table(header, rows, (2, 3))}"
        meaning += f" Below, the {len(rows)} largest confusions."
    return html.section("Confusion matrix", meaning, body)


def _calibration(evaluation):
    c = evaluation.calibration
    tendency = "too confident" if c.overconfidence > 0 else "too cautious"
    meaning = (
        "Images in bins of their confidence, the probability of the best class. Bars: the share "
        "that is right; marks: the mean confidence. Where marks are above the bars, the "
        f"model is too confident. Over all images it is {tendency} by "
        f"{abs(100 * c.overconfidence):.1f} points. Below, the number of images in each bin."
    )
    rows = [
        [
            f"{i / len(c.count):.0%} to {(i + 1) / len(c.count):.0%}",
            f"{n:,}",
            _percent(p),
            _percent(a),
        ]
        for i, (n, p, a) in enumerate(zip(c.count, c.confidence, c.accuracy))
        if n
    ]
    header = ["Confidence", "Images", "Mean", "Accuracy"]
    body = (
        f"<div class=beside><div class='plot scroll'>{charts.reliability_diagram(c)}</div>"
        f"{html.table(header, rows, (1, 2, 3))}</div>"
    )
    return html.section("Calibration", meaning, body)


def _sheet(title, meaning, evaluation, rows, picture):
    if not len(rows):
        return html.section(title, "None.", "")
    shots = "".join(_shot(evaluation, int(row), picture) for row in rows)
    return html.section(title, f"{meaning}.", f"<div class=shots>{shots}</div>")


def _shot(evaluation, row, picture):
    o, names = evaluation.outcomes, evaluation.class_names
    mark = (
        "<span class=good title=right>&#10003;</span>"
        if o.correct[row]
        else "<span class=bad title=wrong>&#10007;</span>"
    )
    label = html.text(", ".join(evaluation.label_names(row)))
    second = ""
    if o.correct[row] and o.best.shape[1] > 1:
        second = (
            f"<small class=soft>second: {html.text(names[o.best[row, 1]])} "
            f"{o.best_probability[row, 1]:.0%}</small>"
        )
    shown = "" if picture is None else html.picture(picture(row))
    return (
        f"<figure>{shown}<figcaption><small class=soft>predicted</small>"
        f"<div><b>{mark} {html.text(names[o.predictions[row]])}</b>"
        f"<span>{o.confidence[row]:.0%}</span></div>"
        f"<small class=soft>label</small><div><b>{label}</b>"
        f"<span>{_tiny(o.label_probability[row])}</span></div>{second}"
        f"<small class=soft>{html.text(evaluation.identifiers[row])}</small></figcaption></figure>"
    )


def _unreadable(messages):
    if not messages:
        return ""
    listed = "".join(f"<li>{html.text(message)}</li>" for message in messages[:_UNREADABLE])
    more = len(messages) - _UNREADABLE
    listed += f"<li>and {more:,} others, in the JSON</li>" if more > 0 else ""
    meaning = f"{len(messages):,} images could not be read. No metric includes them."
    return html.section("Not evaluated", meaning, f"<ul>{listed}</ul>")


def _facts(facts):
    rows = [[html.text(k), f"<code>{html.text(v)}</code>"] for k, v in facts.items() if v]
    return html.section("Origin", "Where this report comes from.", html.table(["", ""], rows))


def _percent(value):
    return "&ndash;" if np.isnan(value) else f"{value:.1%}"


def _tiny(probability):
    return f"{probability:.0%}" if probability >= 0.005 else "&lt; 1%"


def _signed(value):
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
