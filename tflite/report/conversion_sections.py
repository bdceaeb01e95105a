"""The sections of a report that a conversion's own record fills: what was done, step by step, with
which images. A record may come from any file, so nothing in it is taken for granted.
"""

import math

from tflite.report import html_elements

_FILES = 20  # of a calibration set, that are named


def remedies(rows):
    """One line a step of the conversion, as HTML; "" without."""
    rows = _dicts(rows)
    if not rows:
        return ""
    worst = max((row["kl"] for row in rows if _is_number(row.get("kl"))), default=0) or 1
    made = []
    for row in rows:
        kl = row.get("kl")
        bar = ""
        if _is_number(kl):
            bar = (
                '<div class=track style="min-width:6rem"><span class=bar style="width:'
                f'{min(100, 100 * kl / worst):.1f}%"></span></div>'
            )
        made.append(
            [
                html_elements.text(row.get("name", "")),
                f"<span class=soft>{html_elements.text(row.get('what', ''))}</span>",
                bar,
                _number(kl, "{:.4f}"),
                _number(row.get("agreement"), "{:.2%}"),
                _number(row.get("seconds"), "{:.1f} s"),
            ]
        )
    meaning = (
        "Each line is the file after one more step, measured on held-out calibration images; the "
        "first is the plain conversion. Bars and KL should shrink, the agreement grow."
    )
    header = ["Step", "What it does", "", "KL, nats", "Same answer", "Time"]
    return html_elements.section(
        "What each remedy changed", meaning, html_elements.table(header, made, (3, 4, 5))
    )


def islands(rows):
    """What stayed in float32 and why, as HTML; "" without."""
    rows = _dicts(rows)
    if not rows:
        return ""
    made = []
    for row in rows:
        ops = row.get("ops", "")
        ops = f"{len(ops):,}" if isinstance(ops, (list, tuple)) else html_elements.text(ops)
        made.append(
            [
                html_elements.text(row.get("name", "")),
                ops,
                _number(row.get("gain"), "{:.4g}"),
                _number(row.get("latency_ms"), "{:+.2f} ms"),
                html_elements.text(row.get("why", "")),
            ]
        )
    meaning = (
        "Parts that stay in float32: those that, alone in int8, add most to the divergence for the "
        "time that float32 costs."
    )
    header = ["Float32Region", "Ops", "KL, nats", "Time", "Why"]
    return html_elements.section(
        "Float islands", meaning, html_elements.table(header, made, (1, 2, 3))
    )


def calibration(manifest):
    """Which images the ranges came from, as HTML; "" without."""
    if not isinstance(manifest, dict):
        return ""
    rows = []
    for key, title in (
        ("source", "From"),
        ("images", "Images"),
        ("preprocessing", "Prepared"),
        ("sha256", "SHA-256 of the pixels"),
    ):
        value = manifest.get(key)
        if value is not None:
            shown = f"{value:,}" if isinstance(value, int) else html_elements.text(value)
            rows.append([title, f"<code>{shown}</code>" if key == "sha256" else shown])
    files = manifest.get("files")
    if isinstance(files, (list, tuple)) and files:
        named = ", ".join(str(file) for file in files[:_FILES])
        more = f" and {len(files) - _FILES:,} more" if len(files) > _FILES else ""
        rows.append(["Files", f"<code>{html_elements.text(named)}</code>{more}"])
    if not rows:
        return ""
    meaning = (
        "The images that the ranges of the int8 numbers come from; the same give the same file."
    )
    return html_elements.section("Calibration", meaning, html_elements.table(["", ""], rows))


def plan(lines):
    """The plan's text as HTML; "" without."""
    if isinstance(lines, str):
        lines = lines.splitlines()
    if not isinstance(lines, (list, tuple)) or not lines:
        return ""
    meaning = "Which op was to be converted to what, and why, before anything was converted."
    body = f"<pre>{html_elements.text(chr(10).join(str(line) for line in lines))}</pre>"
    return html_elements.section("The plan", meaning, body)


def _dicts(rows):
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, (list, tuple)) else []


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value, form):
    return form.format(value) if _is_number(value) else ""
