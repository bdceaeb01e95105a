"""Report sections of a comparison: SQNR, changed predictions, sizes, latency, delegates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_effnet import html_elements as html
from tflite.evaluation.accuracy import EvaluationReport
from tflite.evaluation.comparison import Comparison

PREVIEWS = 10  # changed predictions that are shown with their image
_LOW_DB = 10.0  # below: the error is more than a third of the values
_EXACT_DB = 100.0  # above: rounding of float32

_VERDICTS = {
    "all": ("good", "all ops"),
    "not all": ("bad", "not all ops"),
    "unknown": ("warn", "unknown"),
}


def sqnr(comparison: Comparison) -> str:
    """SQNR of every block as HTML; "" for models of different graphs."""
    blocks = comparison.blocks
    if not blocks:
        return ""
    reference, candidate = (html.text(name) for name in comparison.report.names)
    finite = [block.sqnr_db for block in blocks if block.sqnr_db < _EXACT_DB]
    top = 10 * math.ceil(max([30.0, *finite]) / 10)
    lowest = min(blocks, key=lambda block: block.sqnr_db)
    meaning = (
        f"Signal-to-quantization-noise ratio: power of the values of {reference} over the power of "
        f"the error of {candidate}. At 20 dB the error is a tenth of the values, at 10 dB a third, "
        f"at 0 dB as large. The lowest is {html.text(lowest.name)}. Median of "
        f"{comparison.sqnr_images} images."
    )
    rescaled = sum(tensor.rescaled for block in blocks for tensor in block.tensors)
    if rescaled:
        meaning += f" Equalization rescaled {rescaled} tensors; this is undone before measuring."
    key = (
        '<span><i style="background:var(--second)"></i>output of the block</span>'
        f'<span><i style="background:var(--warn)"></i>output below {_LOW_DB:.0f} dB</span>'
        '<span><i class=dot style="background:var(--ink)"></i>lowest tensor of the block</span>'
    )
    rows = [
        (
            block.name,
            block.sqnr_db,
            block.worst.sqnr_db,
            f"{block.name}: output {block.sqnr_db:.1f} dB; lowest {block.worst.sqnr_db:.1f} dB, "
            f"{block.worst.name.split(';')[0]}",
            block.sqnr_db < _LOW_DB,
        )
        for block in blocks
    ]
    return html.section("SQNR by block", meaning, html.bars(rows, top, "dB", key, _EXACT_DB))


def changed_predictions(
    report: EvaluationReport,
    images: np.ndarray | Mapping[int, np.ndarray] | None,
    class_names: Sequence[str] | None,
) -> str:
    """The images that the two models classify differently, as HTML."""
    rows = report.changed_predictions
    if not rows:
        return html.section("Changed predictions", "None.", "")
    previews = [_preview(report.names, row, images, class_names) for row in rows[:PREVIEWS]]
    outcomes = [row.outcome for row in rows]
    counts = ""
    if rows[0].label is not None:
        counts = (
            f" {outcomes.count('right->wrong'):,} changed from right to wrong, "
            f"{outcomes.count('wrong->right'):,} from wrong to right, "
            f"{outcomes.count('wrong->wrong'):,} from one wrong class to another."
        )
    meaning = (
        f"The top-1 prediction differs on {len(rows):,} of {report.images:,} images.{counts} Below "
        f"are the {len(previews)} of which {html.text(report.names[0])} was most certain, with the "
        "probability that each model gives its prediction. The JSON lists all."
    )
    body = f"<div class=shots>{''.join(previews)}</div>"
    return html.section("Changed predictions", meaning, body)


def _preview(names, row, images, class_names):
    def class_name(index):
        named = class_names is not None and index < len(class_names)
        return html.text(class_names[index] if named else f"class {index}")

    def line(name, index, score):
        mark = ""
        if row.label is not None:
            mark = (
                "<span class=good title=right>&#10003;</span> "
                if index == row.label
                else "<span class=bad title=wrong>&#10007;</span> "
            )
        return (
            f"<small class=soft>{html.text(name)}</small>"
            f"<div><b>{mark}{class_name(index)}</b><span>{score:.0%}</span></div>"
        )

    label = "" if row.label is None else f"label: {class_name(row.label)}<br>"
    picture = "" if images is None else html.picture(np.asarray(images[row.index]))
    return (
        f"<figure>{picture}<figcaption>{line(names[0], row.reference, row.reference_score)}"
        f"{line(names[1], row.candidate, row.candidate_score)}"
        f"<small class=soft>{label}image {row.index:,}</small></figcaption></figure>"
    )


def sizes(comparison: Comparison) -> str:
    """The bytes of both files by part, as HTML."""
    report = comparison.report
    reference, candidate = comparison.size_by_part
    rows = [
        [
            html.text(part),
            *(f"{sizes[part]:,}" if part in sizes else "" for sizes in (reference, candidate)),
            f"{candidate[part] / report.candidate.size:.1%}" if part in candidate else "",
        ]
        for part in dict.fromkeys([*candidate, *reference])
    ]
    names = [html.text(name) for name in report.names]
    header = ["Part, bytes", *names, f"of {names[1]}"]
    body = html.stacks(list(zip(report.names, comparison.size_by_part)))
    body += f'<div style="height:.9rem"></div>{html.table(header, rows, (1, 2, 3))}'
    meaning = "Almost all bytes are weights, so their data type determines the size."
    return html.section("Size by part", meaning, body)


def latency(report: EvaluationReport) -> str:
    """The latency of both models with one and two threads, as HTML."""
    a, b = report.reference, report.candidate
    rows = [
        ["1", f"{a.latency_ms:.2f} ms", f"{b.latency_ms:.2f} ms", f"{report.latency_ratio:.2f}"],
        [
            "2",
            f"{a.latency_2_threads_ms:.2f} ms",
            f"{b.latency_2_threads_ms:.2f} ms",
            f"{report.latency_ratio_2_threads:.2f}",
        ],
    ]
    reference, candidate = (html.text(name) for name in report.names)
    header = ["Threads", reference, candidate, f"{candidate} / {reference}"]
    meaning = (
        f"Median of one image on this machine ({html.text(report.machine)}); the models take turns."
        " A ratio of 0.50 is twice as fast. Other load on the machine adds to the times, most of "
        "all with two threads."
    )
    return html.section("Latency", meaning, html.table(header, rows, (1, 2, 3)))


def delegate_support(comparison: Comparison) -> str:
    """Which ops of the candidate each delegate runs, as HTML."""
    reference_name, candidate_name = (html.text(name) for name in comparison.report.names)
    cards = []
    for reference, candidate in zip(*comparison.delegates):
        style, verdict = _VERDICTS[candidate.verdict]
        missing = {**candidate.unsupported, **candidate.unknown}
        listed = ", ".join(f"{op} ({n})" for op, n in missing.items())
        listed = f"<p>Not: <code>{html.text(listed)}</code></p>" if listed else ""
        sources = "<br>".join(
            f"<b>{evidence}</b>: {html.text(source)}" for evidence, source in candidate.sources
        )
        cards.append(
            f"<div class=card><div class=head><strong>{html.text(candidate.delegate)}</strong>"
            f"<span class='tag {style}'>{verdict}</span></div>"
            f"<small>{html.text(candidate.hardware)}</small>{listed}"
            f"<p style='color:var(--ink)'>{html.text(candidate.advice)}</p><p>{sources}</p>"
            f"<p>{reference_name}: {_VERDICTS[reference.verdict][1]}</p></div>"
        )
    meaning = (
        f"Which hardware runs every op of {candidate_name}. Other ops run on the CPU. "
        '"measured": on this machine; "documented": stated by the source; unknown: no source says.'
    )
    return html.section("Delegate support", meaning, f"<div class=cards>{''.join(cards)}</div>")
