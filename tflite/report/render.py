"""A comparison as a page that a person reads, and as JSON that a program does.

The page is one file: no network, no script, light and dark. Every figure has a sentence that says
what it means.
"""

import json
import os

from keras_effnet import atomic_write
from tflite.report import comparison_sections, conversion_sections, html_elements

_RECORD = ("preset", "plan", "remedies", "islands", "calibration")


def write_report(path_html, comparison, *, record=None, images=None, class_names=None):
    """Writes a :class:`~tflite.evaluation.comparison.Comparison` as `path_html` and, with the same figures, as
    JSON beside it (``.html`` becomes ``.json``); returns the JSON's path.

    Both are written aside and moved into place, the page last: a page that is there is whole.

    Args:
        path_html: where to; must end in ".html".
        comparison: of two files.
        record: what a conversion wrote of itself (``<out>.tflite.json``): "preset", "plan",
            "remedies", "islands", "calibration"; what is missing is left out.
        images: uint8 (n, height, width, 3) that the comparison was made on, to show some.
        class_names: of the scores, in order; else they are numbered.

    Raises:
        ValueError: a path with another ending, images or names that are not the comparison's.
    """
    path = os.path.abspath(os.fspath(path_html))
    stem, ending = os.path.splitext(path)
    if ending != ".html":
        raise ValueError(f"{path!r} does not end in .html")
    if images is not None and len(images) != comparison.report.images:
        raise ValueError(
            f"{len(images)} images for a comparison of {comparison.report.images}: give the same"
        )
    record = {k: record[k] for k in _RECORD if record.get(k)} if isinstance(record, dict) else {}
    names = None if class_names is None else [str(name) for name in class_names]
    figures = {**comparison.as_dict(), "record": record, "class_names": names}
    files = {
        f"{stem}.json": json.dumps(figures, indent=2, default=str).encode() + b"\n",
        path: render(comparison, record=record, images=images, class_names=names).encode(),
    }
    atomic_write.write_files(files)
    return f"{stem}.json"


def render(comparison, *, record=None, images=None, class_names=None):
    """The page as a string; arguments as of :func:`write_report`."""
    record = record or {}
    first, second = comparison.report.titles
    sections = (
        _head(comparison, record),
        _headlines(comparison.report),
        _side_by_side(comparison.report),
        conversion_sections.remedies(record.get("remedies")),
        conversion_sections.islands(record.get("islands")),
        comparison_sections.blocks(comparison),
        comparison_sections.changed(comparison.report, images, class_names),
        comparison_sections.sizes(comparison),
        comparison_sections.latency(comparison.report),
        comparison_sections.by_delegate(comparison),
        conversion_sections.calibration(record.get("calibration")),
        conversion_sections.plan(record.get("plan")),
        _foot(comparison.report),
    )
    return html_elements.document(f"{second} against {first}", "\n".join(s for s in sections if s))


def _head(comparison, record):
    r = comparison.report
    first, second = r.titles
    preset = (
        f"Preset <code>{html_elements.text(record['preset'])}</code>. "
        if "preset" in record
        else ""
    )
    sizes = " and ".join(f"{h} x {w}" for h, w in dict.fromkeys(comparison.image_sizes))
    faster = 1 / r.latency_ratio
    pace = f"{faster:.1f} times as fast" if faster >= 1 else f"{1 / faster:.1f} times slower"
    change = (
        f"{r.size_ratio:.1f} times smaller"
        if r.size_ratio >= 1
        else (f"{1 / r.size_ratio:.1f} times larger")
    )
    return (
        f"<h1>{html_elements.text(second)} <span class=soft>against</span> {html_elements.text(first)}</h1>\n"
        f"<p class=soft>{preset}{r.images:,} images of {sizes} pixels from "
        f"<code>{html_elements.text(r.source)}</code></p>\n"
        f"<p class=lead><b>{html_elements.text(second)}</b> answers as {html_elements.text(first)} does on "
        f"<b>{r.agreement:.1%}</b> of the images. It is <b>{change}</b> and <b>{pace}</b> on this "
        "machine's processor.</p>"
    )


def _headlines(r):
    cards = []
    if r.drop is not None:
        d = r.drop
        sure = "more than chance explains" if d.p_value < 0.05 else "no more than chance explains"
        cards.append(
            html_elements.card(
                "Change of top-1",
                f"{_signed(-d.points)} points",
                f"{_signed(-d.high)} to {_signed(-d.low)} (95 %)",
                f"How many more of 100 images are right. {d.n10:,} became wrong and {d.n01:,} "
                f"became right: {sure} (p = {d.p_value:.2g}).",
            )
        )
    low, high = r.agreement_interval
    cards.append(
        html_elements.card(
            "Same answer",
            f"{r.agreement:.2%}",
            f"{low:.2%} to {high:.2%} (95 %)",
            f"On {r.images - len(r.changed):,} of {r.images:,} images both files name the same "
            "class first, right or wrong.",
        )
    )
    if r.divergence is not None:
        cards.append(
            html_elements.card(
                "Divergence of the scores",
                f"{r.divergence:.4f} nats",
                "",
                "How far all scores move, not only the first (KL, mean over the images). 0 is no "
                "change; below 0.01 is hard to notice, above 0.1 is not.",
            )
        )
    cards += [
        html_elements.card(
            "Size",
            f"{r.int8.size / 1e6:.2f} MB",
            f"from {r.float32.size / 1e6:.2f} MB: {r.size_ratio:.2f} times smaller",
            "What an app's download grows by.",
        ),
        html_elements.card(
            "Time of one image",
            f"{r.int8.latency_ms:.2f} ms",
            f"from {r.float32.latency_ms:.2f} ms: {r.latency_ratio:.0%} of it, 1 thread",
            f"Median on this machine ({r.machine}); a phone's is another.",
        ),
        html_elements.card(
            "Accelerated on the CPU",
            "fully" if r.int8.fully_accelerated else "partly",
            "",
            "Whether every op runs in XNNPACK, the fast library of phones' processors. One that "
            "does not can cost more than all others.",
        ),
    ]
    return f"<div class=cards>{''.join(cards)}</div>"


def _side_by_side(r):
    columns = (r.float32, r.int8)

    def both(value, form):
        return [form.format(value(c)) for c in columns]

    rows = []
    if r.float32.top1 is not None:
        rows.append(["Top-1: the first answer is right", *both(lambda c: c.top1, "{:.2%}")])
    if r.float32.top5 is not None:
        rows.append(["Top-5: one of the first five is", *both(lambda c: c.top5, "{:.2%}")])
    rows += [
        ["Size in bytes", *both(lambda c: c.size, "{:,}")],
        [
            "Ops that compute in float",
            *(
                f"<span class=wrap>{html_elements.text(_listed(c.float_ops) or 'none')}</span>"
                for c in columns
            ),
        ],
    ]
    meaning = "The two files, each by itself, on the same images."
    header = ["", *(html_elements.text(t) for t in r.titles)]
    return html_elements.section("Side by side", meaning, html_elements.table(header, rows, (1, 2)))


def _foot(r):
    drop = (
        "Interval of the top-1 difference: Tango's score interval of paired proportions; p: exact "
        "McNemar test. "
        if r.drop is not None
        else ""
    )
    return (
        f"<footer>{drop}Interval of the agreement: Wilson. Divergence: KL of the first file's "
        "probabilities from the second's. The JSON beside this page has all figures.</footer>"
    )


def _listed(counts):
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _signed(value):
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
