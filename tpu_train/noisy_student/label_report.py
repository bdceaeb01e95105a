"""The report of a labeling: statistics as text, and a page with images."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from keras_effnet import html_elements
from keras_effnet.datasets.labeled_images import LabeledImages
from tpu_train.input_pipeline.tfrecord_shard import disk_errors
from tpu_train.noisy_student.score_chunks import Scores
from tpu_train.noisy_student.selection import Selection, SelectionRule
from tpu_train.remote_files import write_file

PAGE, RECORD = "pseudo_labels.html", "pseudo_labels.json"
_BINS = 10
_SHEETS, _EXAMPLES, _UNCERTAIN = 20, 5, 20  # classes, images of each, images
_LINES = 40  # classes in the text


@dataclass(frozen=True, eq=False)
class LabelReport:
    """What a labeling found."""

    teacher: str
    images: LabeledImages
    scores: Scores
    selection: Selection
    classes: Sequence[str]
    rule: SelectionRule

    @property
    def confidences(self) -> np.ndarray:
        """float32 (images,): the largest score of each."""
        return self.scores.values.max(1)

    @property
    def histogram(self) -> list[int]:
        """The number of images in ten intervals of the confidence from 0 to 1."""
        return np.histogram(self.confidences, _BINS, (0, 1))[0].tolist()

    def as_dict(self) -> dict:
        """All numbers, as JSON types."""
        chosen = self.selection
        return {
            "teacher": self.teacher,
            "data": self.images.name,
            "rule": asdict(self.rule),
            "images": len(self.confidences),
            "unreadable": list(self.scores.unreadable),
            "confidence_histogram": self.histogram,
            "classes": [
                {
                    "class": name,
                    "labeled": int(chosen.labeled[c]),
                    "confident": int(chosen.confident[c]),
                    "used": int(chosen.used[c]),
                    "with_repetitions": int(chosen.total[c]),
                }
                for c, name in enumerate(self.classes)
            ],
        }


def statistics(report: LabelReport) -> list[str]:
    """Lines of text: the confidences, and the images of every class before and after selection."""
    chosen, count = report.selection, len(report.confidences)
    lines = [
        f"{count:,} images labeled, {chosen.confident.sum():,} "
        f"({chosen.confident.sum() / count:.1%}) with a confidence of {report.rule.threshold} or "
        f"more; {chosen.used.sum():,} are used, {chosen.total.sum():,} with repetitions",
        "confidence " + "  ".join(f"{(i + 1) / _BINS:.1f}" for i in range(_BINS)),
        "images     " + "  ".join(f"{n / count:3.0%}" for n in report.histogram),
        f"{'class':<24}{'labeled':>10}{'confident':>11}{'used':>8}{'repeated to':>13}",
    ]
    for c, name in enumerate(report.classes[:_LINES]):
        lines.append(
            f"{name[:23]:<24}{chosen.labeled[c]:>10,}{chosen.confident[c]:>11,}"
            f"{chosen.used[c]:>8,}{chosen.total[c]:>13,}"
        )
    if len(report.classes) > _LINES:
        lines.append(f"and {len(report.classes) - _LINES} other classes: see {PAGE}")
    return lines


def write_report(folder: str, report: LabelReport) -> None:
    """Writes ``pseudo_labels.json`` and ``pseudo_labels.html`` into the folder."""
    record = json.dumps(report.as_dict(), indent=1) + "\n"
    with disk_errors(folder):
        write_file(os.path.join(folder, RECORD), record)
        write_file(os.path.join(folder, PAGE), _render(report))


def _render(report):
    chosen, text = report.selection, html_elements.text
    count, confident = len(report.confidences), int(chosen.confident.sum())
    cards = [
        ("Labeled", f"{count:,}", "images that the teacher has labeled"),
        (
            "Confident",
            f"{confident / count:.1%}",
            f"{confident:,} images have a confidence of {report.rule.threshold} or more",
        ),
        (
            "Used",
            f"{chosen.used.sum():,}",
            f"different images, {chosen.total.sum():,} in an epoch, as rare classes are repeated",
        ),
    ]
    body = [
        f"<h1>Pseudo-labels of {text(report.images.name)}</h1>",
        f"<p class=soft>Teacher: {text(report.teacher)}</p>",
        "<div class=cards>"
        + "".join(html_elements.card(title, value, (), why) for title, value, why in cards)
        + "</div>",
        html_elements.section(
            "Confidence",
            "The share of all images in each interval; below the threshold in another color.",
            _histogram(report),
        ),
        html_elements.section(
            "Images of every class",
            "Labeled, above the threshold, used, and the number in an epoch.",
            html_elements.table(
                ("Class", "Labeled", "Confident", "Used", "With repetitions"),
                [
                    (text(name), *(f"{column[c]:,}" for column in _columns(chosen)))
                    for c, name in enumerate(report.classes)
                ],
                numbers=(1, 2, 3, 4),
            ),
        ),
        html_elements.section(
            "Least certain images that are used",
            "If most of these are wrong, a higher threshold may help.",
            _figures(report, chosen.rows[np.argsort(_used(report), kind="stable")[:_UNCERTAIN]]),
        ),
        *_sheets(report),
    ]
    title = f"Pseudo-labels of {report.images.name}"
    return html_elements.document(title, "\n".join(body), "effnet-train pseudo-label")


def _columns(chosen):
    return chosen.labeled, chosen.confident, chosen.used, chosen.total


def _histogram(report):
    shares = 100 * np.array(report.histogram) / len(report.confidences)
    rows = [
        (
            f"{i / _BINS:.1f}-{(i + 1) / _BINS:.1f}",
            float(share),
            1e9,  # no mark
            f"{report.histogram[i]:,} images",
            (i + 1) / _BINS <= report.rule.threshold + 1e-9,
        )
        for i, share in enumerate(shares)
    ]
    top = min(100, 10 * -(-int(shares.max() + 1) // 10))
    key = "Share of the images in %"
    return html_elements.bars(rows, top, "%", key, 1e9)


def _used(report):
    return report.confidences[report.selection.rows]


def _sheets(report):
    """The most confident images of the first classes."""
    labels = report.scores.values.argmax(1)
    rows = report.selection.rows
    for c, name in enumerate(report.classes[:_SHEETS]):
        members = rows[labels[rows] == c]
        best = members[np.argsort(-report.confidences[members], kind="stable")[:_EXAMPLES]]
        if len(best):
            yield html_elements.section(name, "The most certain images.", _figures(report, best))


def _figures(report, rows):
    figures = []
    for row in rows:
        i = int(report.scores.rows[row])
        name = report.classes[int(report.scores.values[row].argmax())]
        figures.append(
            f"<figure>{html_elements.picture(report.images.pixels(i))}<figcaption><div>"
            f"<b>{html.escape(name)}</b><span>{report.confidences[row]:.2f}</span></div>"
            f"<small>{html.escape(os.path.basename(report.images.where(i)))}</small>"
            "</figcaption></figure>"
        )
    return f"<div class=shots>{''.join(figures)}</div>"
