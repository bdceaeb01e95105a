"""A card as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from keras_effnet.model_card.card import GENERATOR
from keras_effnet.model_card.front_matter import card_name, format_front_matter
from keras_effnet.model_card.limits import list_names
from keras_effnet.model_card.metric_tables import class_table, comparison_table, metric_table

MARK = f"<!-- written by {GENERATOR} -->"
_NAMED = 20  # classes in the first sentence

_USAGE = """\
```python
from keras_effnet.image_classifier import open_classifier
from keras_effnet.image_decoding import load_image

classifier = open_classifier({file!r})
image = classifier.image_input.prepare(load_image("photo.jpg"))
scores = classifier.scores(image[None])[0]
best = scores.argmax()
print(classifier.class_names[best] if classifier.class_names else best, scores[best])
```"""


def render_markdown(card: Mapping) -> str:
    """The Markdown of a card, with its front matter."""
    sections = (
        ("", f"# {escape(card_name(card))}\n\n{MARK}\n\n{_introduction(card)}"),
        ("Intended use", _intended_use(card)),
        ("Limits", "\n".join(f"- {escape(limit)}" for limit in card["limits"])),
        ("Metrics", _metrics(card)),
        ("Conversion", _conversion(card["conversion"])),
        ("Preprocessing", _preprocessing(card["model"]["input"])),
        ("Use", _usage(card)),
        ("Training data", _data(card)),
        ("Training recipe", _recipe(card)),
        ("Per-class metrics", _classes(card)),
        ("License", _license(card["license"])),
        ("File", _file(card)),
    )
    parts = [f"## {title}\n\n{body}" if title else body for title, body in sections if body]
    return format_front_matter(card) + "\n" + "\n\n".join(parts) + "\n"


def escape(text: object) -> str:
    r"""Text such that Markdown shows it as it is, on one line.

    >>> escape("a|b <i> c_d")
    'a\\|b &lt;i> c\\_d'
    """
    text = re.sub(r"[\ud800-\udfff]", "\ufffd", " ".join(str(text).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _introduction(card):
    names = card["model"]["class_names"]
    kind = f"An image classifier of {len(names):,} classes" if names else "An image classifier"
    kind += f" ({escape(card['network'])})" if card["network"] else ""
    if card["conversion"]:
        kind += f", converted to TFLite with the preset {escape(card['conversion']['preset'])}"
    return f"{kind}. Every statement below comes from the files of the model."


def _intended_use(card):
    names = card["model"]["class_names"]
    if not names:
        return "Classifies images. The files do not name the classes."
    listed = escape(list_names(list(names), _NAMED))
    return f"Classifies images into {len(names):,} classes: {listed}. The files state no other use."


def _metrics(card):
    parts = []
    for evaluation in card["evaluations"]:
        metrics = evaluation["metrics"]
        date = f", {evaluation['date'][:10]}" if evaluation["date"] else ""
        parts.append(f"{escape(evaluation['data'])}: {metrics['images']:,} images{date}.")
        parts.append(_table(("metric", "value", "95 % interval"), metric_table(metrics)))
        parts.append(f"Loss: {escape(metrics['loss_definition'])}.")
    return "\n\n".join(parts)


def _conversion(conversion):
    if not conversion:
        return ""
    rows = [
        ("preset", conversion["preset"]),
        ("converted from", conversion["float_model"]),
        ("quantization steps", ", ".join(conversion["steps"])),
        ("float32 regions", ", ".join(conversion["float32_regions"])),
    ]
    calibration = conversion["calibration"]
    if calibration:
        rows += [("calibration images", calibration["source"])]
        rows += [("calibration preprocessing", calibration["preprocessing"])]
    rows.append(("date", conversion["date"]))
    parts = [_table(("", ""), [row for row in rows if row[1]])]
    comparison = conversion["comparison"]
    if comparison:
        machine = f"latency of one image and thread on {escape(comparison['machine'])}"
        parts.append(f"Both models on {escape(comparison['source'])}; {machine}:")
        parts.append(_table(("", "float32", "converted"), comparison_table(comparison)))
    return "\n\n".join(parts)


def _preprocessing(image):
    sides = (image["height"], image["width"])
    size = None if None in sides else f"{sides[0]} x {sides[1]} pixels"
    crop = image["crop"]
    if crop is not None:
        shown = f"center square of {crop:.4g} of the shorter side"
        crop = shown if crop else "none: the whole image, stretched"
    pixels = image["pixel_range"] and (
        f"{'grey' if image['channels'] == 1 else 'RGB'} in "
        f"[{image['pixel_range'][0]}, {image['pixel_range'][1]}]; the model normalizes them"
    )
    rows = [
        ("image size", size),
        ("crop", crop),
        ("interpolation", image["interpolation"]),
        ("pixels", pixels),
        ("data type", image["dtype"]),
        ("mean", image["mean"] and ", ".join(f"{v:g}" for v in image["mean"])),
        ("standard deviation", image["std"] and ", ".join(f"{v:g}" for v in image["std"])),
    ]
    return _table(("", ""), [(name, value or "not stated by the files") for name, value in rows])


def _usage(card):
    return f"{_USAGE.format(file=card['model']['file'])}\n\nIt prints the best class and its score."


def _data(card):
    data = card["data"]
    if not data:
        return ""
    rows = [
        ("training images", f"{data['training_images']:,}"),
        ("training data", data["training"]),
        ("evaluation data", data["evaluation"]),
        ("files left out", f"{data['skipped_files']:,}"),
    ]
    if data["images_per_class"]:
        low, high = min(data["images_per_class"]), max(data["images_per_class"])
        rows.append(("images of a class", f"{low:,} to {high:,}"))
    return _table(("", ""), [row for row in rows if row[1]])


def _recipe(card):
    if not card["recipe"]:
        return ""
    recipe = [(name, f"{value}") for name, value in card["recipe"].items() if value != ""]
    parts = [_details("All settings", _table(("setting", "value"), recipe))]
    phases = card["phases"]
    if phases:
        rows = [[phase[name] for name in phases[0]] for phase in phases]
        parts.append(_details("Phases", _table(list(phases[0]), rows)))
    source = escape(card["recipe"].get("name") or "")
    weights = escape(card["recipe"].get("weights") or "random")
    return "\n\n".join([f"Recipe {source}; initial weights: {weights}.", *parts])


def _classes(card):
    parts = []
    for evaluation in card["evaluations"]:
        rows = class_table(evaluation["classes"])
        head = ("class", "images", "precision", "recall", "recall, 95 %", "F1")
        parts.append(_details(f"{len(rows):,} classes of {evaluation['data']}", _table(head, rows)))
    return "\n\n".join(parts)


def _license(name):
    if name:
        return f"License: {escape(name)}"
    return (
        "**To be filled in.** The files state no license: replace `other` at the top, or run "
        "`effnet card` with `--license`. Consider the licenses of the training images and of the "
        "initial weights."
    )


def _file(card):
    model = card["model"]
    rows = [("name", model["file"]), ("size", f"{model['size_bytes']:,} bytes")]
    if model["parameters"] is not None:
        rows.append(("parameters", f"{model['parameters']:,}"))
    rows.append(("SHA-256", model["sha256"]))
    rows += [(name, version) for name, version in card["versions"].items()]
    return _table(("", ""), rows)


def _details(title, body):
    return f"<details><summary>{escape(title)}</summary>\n\n{body}\n\n</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    head, *rows = ([escape(cell) for cell in row] for row in (head, *rows))
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
