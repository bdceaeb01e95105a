"""Writes a comparison as an HTML page and as JSON.

The page is one file without network access or scripts, in light and dark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from keras_effnet import atomic_write
from keras_effnet import html_elements as html
from keras_effnet.evaluation.intervals import wilson
from tflite.evaluation.comparison import Comparison
from tflite.report import comparison_sections, conversion_sections, provenance
from tflite.report.own_files import GENERATOR

_RECORD = ("preset", "warnings", "plan", "quantization_steps", "float32_regions", "calibration")


def write_report(
    path_html: str | os.PathLike,
    comparison: Comparison,
    *,
    record: dict | None = None,
    images: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    origin: dict | None = None,
) -> str:
    """Writes a comparison as `path_html`, and as JSON with the ending ``.json``; returns the path
    of the JSON. Both are written atomically.

    Args:
        path_html: must end in ".html".
        comparison: of two models.
        record: JSON of a conversion (``<out>.tflite.json``). Used keys: "preset", "plan",
            "quantization_steps", "float32_regions", "calibration"; all are optional.
        images: uint8 (n, height, width, 3) that the comparison was made on, for the previews.
        class_names: in the order of the scores. Default: numbers.
        origin: as ``provenance.origin_of`` returns it, for the title and the last section.

    Raises:
        ValueError: another ending, or another number of images than in the comparison.
    """
    path = os.path.abspath(os.fspath(path_html))
    stem, ending = os.path.splitext(path)
    if ending != ".html":
        raise ValueError(f"{path!r} does not end in .html")
    if images is not None and len(images) != comparison.report.images:
        raise ValueError(
            f"{len(images)} images for a comparison of {comparison.report.images}: give those that "
            "it was made on"
        )
    record = {k: record[k] for k in _RECORD if record.get(k)} if isinstance(record, dict) else {}
    names = None if class_names is None else [str(name) for name in class_names]
    content = {**comparison.as_dict(), "record": record, "class_names": names, "origin": origin}
    files = {
        f"{stem}.json": json.dumps(content, indent=2, default=str) + "\n",
        path: render(comparison, record=record, images=images, class_names=names, origin=origin),
    }
    atomic_write.write_files(files)
    return f"{stem}.json"


def render(
    comparison: Comparison,
    *,
    record: dict | None = None,
    images: np.ndarray | Mapping[int, np.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
    origin: dict | None = None,
) -> str:
    """The HTML page of a comparison.

    Args:
        comparison: of two models.
        record: as for :func:`write_report`.
        images: uint8 images of the comparison, or {index: image} of those to show, which are the
            first ``comparison_sections.PREVIEWS`` of the changed predictions.
        class_names: as for :func:`write_report`.
        origin: as for :func:`write_report`.
    """
    record, report = record or {}, comparison.report
    reference, candidate = report.names
    sections = (
        _head(comparison, record, origin),
        conversion_sections.warnings(record.get("warnings")),
        _headlines(report),
        _metrics(report),
        conversion_sections.quantization_steps(
            record.get("quantization_steps"), record.get("calibration")
        ),
        conversion_sections.float32_regions(record.get("float32_regions")),
        comparison_sections.sqnr(comparison),
        ""
        if report.agreement is None
        else comparison_sections.changed_predictions(report, images, class_names),
        comparison_sections.sizes(comparison),
        comparison_sections.latency(report),
        comparison_sections.delegate_support(comparison),
        conversion_sections.calibration(record.get("calibration")),
        conversion_sections.plan(record.get("plan")),
        provenance.section(origin),
        _foot(report),
    )
    title = f"{candidate} compared with {reference}"
    name = provenance.file_name(origin)
    if name and name != candidate:
        title = f"{name}: {title}"
    body = "\n".join(section for section in sections if section)
    return html.document(title, body, GENERATOR)


def _head(comparison, record, origin):
    r = comparison.report
    reference, candidate = (html.text(name) for name in r.names)
    preset = ""
    if "preset" in record:
        preset = f"Preset <code>{html.text(record['preset'])}</code>. "
    sizes = " and ".join(f"{h} x {w}" for h, w in dict.fromkeys(comparison.image_sizes))
    pace = _times(1 / r.latency_ratio, "as fast", "slower")
    size = "as large" if r.size_ratio == 1 else _times(r.size_ratio, "smaller", "larger")
    if r.agreement is None:
        correlations = [o.correlation for o in r.outputs if o.correlation is not None]
        lowest = f"{min(correlations):.4f}" if correlations else "unknown (constant outputs)"
        verdict = f"has outputs with a correlation to {reference} of at least <b>{lowest}</b>. "
    else:
        verdict = (
            f"predicts the same class as {reference} on <b>{r.agreement:.1%}</b> of the images "
            f"({_interval(r.agreement_confidence_interval)}). "
        )
    return (
        f"{_heading(origin, candidate, reference)}"
        f"<p class=soft>{preset}{r.images:,} images of {sizes} pixels from "
        f"<code>{html.text(r.source)}</code></p>\n"
        f"<p class=lead><b>{candidate}</b> {verdict}"
        f"It is <b>{size}</b> and <b>{pace}</b> on the CPU of this machine.</p>"
    )


def _headlines(r):
    cards = []
    if r.drop is not None:
        low, high = r.drop.confidence_interval
        points = f"{_signed(r.drop.points)} points"
        is_significant = low > 0 or high < 0
        cards.append(
            html.card(
                "Drop of top-1 accuracy",
                points if is_significant else "not significant",
                (points, "95 % confidence interval", f"{_signed(low)} to {_signed(high)}"),
                f"Percentage points; a positive drop is a loss. {r.drop.n10:,} images became wrong "
                f"and {r.drop.n01:,} became right (McNemar test, p = {r.drop.p_value:.2g}).",
            )
        )
    if r.metric is not None:
        cards.insert(0, _metric_card(r.metric))
    cards += [_output_card(output) for output in r.outputs]
    if r.agreement is not None:
        cards.append(_agreement_card(r))
    if r.kl_divergence is not None:
        cards.append(
            html.card(
                "KL divergence",
                f"{r.kl_divergence:.4f} nats",
                (),
                "Difference of all class probabilities, mean over the images. 0 means equal "
                "scores; below 0.01 is hard to notice, above 0.1 is clearly visible.",
            )
        )
    cards += [
        html.card(
            "Size",
            f"{r.candidate.size / 1e6:.2f} MB",
            (
                f"{_times(r.size_ratio, 'smaller', 'larger', digits=2)},",
                f"from {r.reference.size / 1e6:.2f} MB",
            )
            if r.size_ratio != 1
            else ("the same size",),
            "Added to the download size of an app.",
        ),
        html.card(
            "Latency",
            f"{r.candidate.latency_ms:.2f} ms",
            (f"{r.latency_ratio:.0%} of {r.reference.latency_ms:.2f} ms,", "1 thread"),
            f"Median of one image on this machine ({r.machine}). A mobile CPU differs.",
        ),
        html.card(
            "CPU acceleration",
            "full" if r.candidate.fully_accelerated else "partial",
            (),
            "Whether XNNPACK, LiteRT's fast CPU library, runs every op. One op that it does not "
            "run can take longer than all others.",
        ),
    ]
    return f"<div class=cards>{''.join(cards)}</div>"


def _agreement_card(r):
    low, high = r.agreement_confidence_interval
    return html.card(
        "Prediction agreement",
        f"{r.agreement:.2%}",
        ("95 % confidence interval", f"{low:.2%} to {high:.2%}"),
        f"Both models predict the same class on {r.images - len(r.changed_predictions):,} of "
        f"{r.images:,} images, right or wrong.",
    )


def _metric_card(metric):
    details = []
    if metric.confidence_interval is not None:
        low, high = metric.confidence_interval
        details = ["95 % confidence interval", f"{_signed(low, 4)} to {_signed(high, 4)}"]
    better = "lower" if metric.lower_is_better else "higher"
    return html.card(
        f"Loss of {metric.name}",
        _signed(metric.loss, 4),
        details,
        f"Your own metric, {better} is better: {metric.reference:.5g} before, "
        f"{metric.candidate:.5g} after. A positive loss is worse.",
    )


def _output_card(output):
    details = [f"standard deviation {output.standard_deviation:.4g}"]
    if output.correlation is not None:
        details.append(f"correlation {output.correlation:.5f}")
    if output.sqnr_db is not None:
        details.append(f"SQNR {output.sqnr_db:.1f} dB")
    return html.card(
        f"Mean absolute error of {output.name}",
        f"{output.mean_absolute_error:.4g}",
        details,
        "Over all images. The standard deviation is that of the float model's values.",
    )


def _metrics(r):
    columns = (r.reference, r.candidate)
    rows = []
    if r.reference.top1 is not None:
        rows.append(["Top-1 accuracy", *(_share(c.top1, r.images) for c in columns)])
    if r.reference.top5 is not None:
        rows.append(["Top-5 accuracy", *(_share(c.top5, r.images) for c in columns)])
    rows.append(["Size in bytes", *(f"{c.size:,}" for c in columns)])
    listed = [", ".join(f"{name} {n}" for name, n in c.float_ops.items()) for c in columns]
    rows.append(
        [
            "Ops in float32",
            *(
                f"<span class=wrap>{html.text(ops or 'none').replace('_', '_<wbr>')}</span>"
                for ops in listed
            ),
        ]
    )
    header = ["", *(html.text(name) for name in r.names)]
    meaning = "Each model by itself, on the same images; in brackets the 95 % confidence interval."
    return html.section("Metrics", meaning, html.table(header, rows, (1, 2)))


def _foot(r):
    drop = (
        "Confidence interval of the drop: Tango's score interval for paired "
        "proportions; p: exact McNemar test. "
        if r.drop is not None
        else ""
    )
    reference, candidate = (html.text(name) for name in r.names)
    if r.agreement is None:
        return "<footer>The JSON file next to this page has all numbers.</footer>"
    return (
        f"<footer>{drop}Confidence intervals of agreement and accuracy: Wilson. KL divergence: "
        f"KL({reference} || {candidate}). The JSON file next to this page has all numbers."
        "</footer>"
    )


def _heading(origin, candidate, reference):
    """The file as title, and below it what is compared, the float model and the date."""
    compared = f"{candidate} <span class=soft>compared with</span> {reference}"
    name = provenance.file_name(origin)
    if not name or html.text(name) == candidate:
        return f"<h1>{compared}</h1>\n"
    date = str(origin.get("date") or "")[:16].replace("T", " ")
    model = origin.get("model")
    cells = [
        compared,
        model and f"<code>{html.text(model)}</code>",
        date and html.text(f"{date} UTC"),
    ]
    return f"<h1>{html.text(name)}</h1>\n<p>{', '.join(filter(None, cells))}</p>\n"


def _times(ratio, above, below, digits=1):
    """A ratio in words: 2 is "2.0 times" `above`, 0.5 is "2.0 times" `below`."""
    factor, word = (ratio, above) if ratio >= 1 else (1 / ratio, below)
    return f"{factor:.{digits}f} times {word}"


def _interval(ends):
    low, high = ends
    return f"95&nbsp;%: {low:.1%} to {high:.1%}"


def _share(share, images):
    """A share of the images with its confidence interval, as HTML."""
    low, high = wilson(round(share * images), images)
    return f"{share:.2%} <small class=wrap>({low:.1%} to {high:.1%})</small>"


def _signed(value, digits=2):
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
