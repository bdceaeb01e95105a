"""Report sections about a conversion: quantization steps, float32 regions, calibration, plan.

The JSON of a conversion is untrusted input: every field is optional and type-checked.
"""

from __future__ import annotations

import math

from keras_effnet import html_elements as html
from tflite.quantization.objective import FEWEST_HELD_OUT

_FILES = 20  # calibration files that are named


def warnings(lines) -> str:
    """The warnings of a conversion as HTML; "" without any.

    Args:
        lines: list of sentences.
    """
    lines = [str(line) for line in lines] if isinstance(lines, (list, tuple)) else []
    return "".join(
        f"<p><span class='tag warn'>Warning</span> {html.text(line)}</p>" for line in lines
    )


def quantization_steps(rows, manifest=None) -> str:
    """The quantization steps as HTML; "" without any.

    Args:
        manifest: as for :func:`calibration`.
        rows: list of dicts with "name", "description", "kl_divergence", "agreement", "gain",
            "standard_error", "kept", "runs".
    """
    rows = _dicts(rows)
    if not rows:
        return ""
    values = [row["kl_divergence"] for row in rows if _is_number(row.get("kl_divergence"))]
    largest = max(values, default=0) or 1
    first, second, lowered, form = _measures(rows[0])
    cells = []
    for row in rows:
        kl, kept = row.get("kl_divergence"), row.get("kept") is not False
        bar = ""
        if _is_number(kl):
            bar = (
                f'<div class=track><span class="bar{"" if kept else " off"}"'
                f' style="width:{min(100, 100 * kl / largest):.1f}%"></span></div>'
            )
        tag = "" if kept else " <span class='tag soft'>not kept</span>"
        if isinstance(row.get("skipped"), str) and row["skipped"]:
            tag = f" <span class='tag soft'>skipped: {html.text(row['skipped'])}</span>"
        if row.get("runs") is False:
            tag = " <span class='tag bad'>does not run</span>"
        cells.append(
            [
                f"{html.text(row.get('name', ''))}{tag}<br>"
                f"<span class=soft>{html.text(row.get('description', ''))}</span>{bar}",
                _number(kl, "{:.4f}"),
                _number(row.get("agreement"), form),
                _gain(row),
            ]
        )
    count = manifest.get("images") if isinstance(manifest, dict) else None
    evaluated = "calibration images that the step did not learn from"
    if _is_number(count) and count < FEWEST_HELD_OUT:
        evaluated = (
            f"the {count} calibration images, which the step also learned from: give "
            f"{FEWEST_HELD_OUT} or more for evidence on other images"
        )
    agreement = ""
    if second == "Agreement":
        agreement = ", and the agreement falls by no more than its own standard error"
    meaning = (
        f"Each row is the model after one more step, evaluated on {evaluated}. A step is kept only "
        f"if it lowers {lowered} the float32 model, image by image, by more than twice the "
        f"standard error{agreement}."
    )
    header = ["Step", first, second, "Gain"]
    return html.section("Quantization steps", meaning, html.table(header, cells, (1, 2, 3)))


def _measures(row):
    """(header of the first value, of the second, what a step lowers, format of the second)."""
    named = row.get("measures")
    if not isinstance(named, (list, tuple)) or len(named) != 2:
        return "KL, nats", "Agreement", "the KL divergence to", "{:.2%}"
    if tuple(named) == ("relative error", "correlation"):  # of a model without classes
        return "Relative error", "Correlation", "the error relative to", "{:.2%}"
    first, second = (html.text(str(name)).replace("_", "_<wbr>") for name in named)
    return first, second, f"the {first} against", "{:.5g}"


def float32_regions(rows) -> str:
    """The ops kept in float32 and the reasons as HTML; "" without any.

    Args:
        rows: list of dicts with "name", "outputs", "kl_divergence", "cost", "reason".
    """
    rows = _dicts(rows)
    if not rows:
        return ""
    cells = []
    for row in rows:
        outputs = row.get("outputs")
        cells.append(
            [
                html.text(row.get("name", "")),
                f"{len(outputs):,}" if isinstance(outputs, (list, tuple)) else "",
                _number(row.get("kl_divergence"), "{:.4g}"),
                _number(row.get("cost"), "{:.1%}"),
                html.text(row.get("reason", "")),
            ]
        )
    meaning = (
        "Regions of the network that stay in float32 to meet the accuracy budget. KL is the "
        "divergence with this region alone in int8, cost its share of the network's operations."
    )
    header = ["Region", "Ops", "KL, nats", "Cost", "Reason"]
    return html.section("Ops kept in float32", meaning, html.table(header, cells, (1, 2, 3)))


def calibration(manifest) -> str:
    """The calibration images as HTML; "" without any.

    Args:
        manifest: dict with "source", "images", "preprocessing", "sha256", "files".
    """
    if not isinstance(manifest, dict):
        return ""
    rows = []
    for key, title in (
        ("source", "Source"),
        ("images", "Images"),
        ("preprocessing", "Preprocessing"),
        ("sha256", "SHA-256 of the pixels"),
    ):
        value = manifest.get(key)
        if value is not None:
            cell = f"{value:,}" if isinstance(value, int) else html.text(value)
            rows.append([title, f"<code>{cell}</code>" if key == "sha256" else cell])
    files = manifest.get("files")
    if isinstance(files, (list, tuple)) and files:
        named = ", ".join(str(file) for file in files[:_FILES])
        more = f" and {len(files) - _FILES:,} more" if len(files) > _FILES else ""
        rows.append(["Files", f"<code>{html.text(named)}</code>{more}"])
    if not rows:
        return ""
    meaning = (
        "Quantization ranges are estimated from these images. The same images give the same file."
    )
    return html.section("Calibration images", meaning, html.table(["", ""], rows))


def plan(lines) -> str:
    """The quantization plan as HTML; "" without one.

    Args:
        lines: text, or a list of lines.
    """
    if isinstance(lines, str):
        lines = lines.splitlines()
    if not isinstance(lines, (list, tuple)) or not lines:
        return ""
    meaning = "The data type of every op and the reason, as planned before the conversion."
    body = f"<pre>{html.text(chr(10).join(str(line) for line in lines))}</pre>"
    return html.section("Quantization plan", meaning, body)


def _dicts(rows):
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, (list, tuple)) else []


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _gain(row):
    """The decrease of the error with its standard error; "" for a step that is always kept."""
    gain, error = row.get("gain"), row.get("standard_error")
    return f"{gain:.1%} &plusmn; {error:.1%}" if _is_number(gain) and _is_number(error) else ""


def _number(value, form):
    return form.format(value) if _is_number(value) else ""
