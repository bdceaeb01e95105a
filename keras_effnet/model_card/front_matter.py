"""The YAML front matter of a card: what the Hugging Face Hub reads, with its metric names.

Specification: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Without a YAML
package: block mappings and lists of double-quoted strings and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

TASK = "image-classification"


def format_front_matter(card: Mapping) -> str:
    """The front matter of a card between its two lines of ``---``."""
    lines = list(_lines(_fields(card)))
    if card["license"] is None:
        lines[0] += "  # to be filled in"
    return "\n".join(["---", *lines, "---", ""])


def format_yaml_text(text: str) -> str:
    r"""A string as a double-quoted YAML scalar.

    >>> print(format_yaml_text('a "b"\n'), format_yaml_text("ü: #"))
    "a \"b\"\n" "ü: #"
    """
    return '"' + "".join(_escaped(character) for character in text) + '"'


def card_name(card: Mapping) -> str:
    """The name of a card's model: the network, or the file without its suffix."""
    if card["network"] and not card["conversion"]:
        return card["network"]
    return card["model"]["file"].rpartition(".")[0]


def _fields(card):
    network, conversion = card["network"], card["conversion"]
    tags = ["keras_effnet", TASK]
    tags += [network.split(",")[0]] if network else []
    tags += ["tflite", conversion["preset"]] if conversion else []
    fields = {"license": card["license"] or "other"}
    if card["model"]["format"] == "keras":
        fields["library_name"] = "keras"
    fields.update(pipeline_tag=TASK, tags=tags)
    if card["datasets"]:
        fields["datasets"] = card["datasets"]
    if card["evaluations"]:
        results = [_result(evaluation, card["datasets"]) for evaluation in card["evaluations"]]
        fields["model-index"] = [{"name": card_name(card), "results": results}]
    return fields


def _result(evaluation, datasets):
    name = evaluation["data"]
    return {
        "task": {"type": TASK, "name": "Image classification"},
        "dataset": {"type": datasets[0] if len(datasets) == 1 else name, "name": name},
        "metrics": list(_metrics(evaluation["metrics"])),
    }


def _metrics(metrics):
    yield {"type": "accuracy", "value": metrics["top1"]["value"], "name": "Top-1 accuracy"}
    if metrics["top5"]:
        yield {"type": "accuracy", "value": metrics["top5"]["value"], "name": "Top-5 accuracy"}
    for name, shown in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        yield {"type": name, "value": metrics["macro"][name], "name": f"Macro {shown}"}
    if metrics["mean_average_precision"] is not None:
        value = metrics["mean_average_precision"]
        yield {"type": "mean_average_precision", "value": value, "name": "Mean average precision"}
    if metrics["loss"] is not None:
        yield {"type": "loss", "value": metrics["loss"], "name": "Loss"}


def _lines(value, indent="") -> Iterator[str]:
    """A mapping in block style; its values are mappings, lists, strings and numbers."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}:"
            for entry in item:
                if isinstance(entry, Mapping):
                    first, *rest = _lines(entry, indent + "  ")
                    yield f"{indent}- {first.lstrip()}"
                    yield from rest
                else:
                    yield f"{indent}- {_scalar(entry)}"
        else:
            yield f"{indent}{key}: {_scalar(item)}"


def _scalar(value):
    # Not 1e-05: YAML 1.1 reads that as a string.
    return format_yaml_text(value) if isinstance(value, str) else f"{value:.6f}"


def _escaped(character):
    if character in '"\\':
        return "\\" + character
    if character == "\n":
        return r"\n"
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # half a character, from a file name that is not UTF-8
        return "\ufffd"
    if character.isprintable():
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
