"""Limits of a model, as far as the files of a card show them: one sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from keras_effnet.evaluation.intervals import wilson

FEW_IMAGES = 30  # of a class: the 95 % interval of its recall is up to 35 points wide
_LISTED = 10
_MISCALIBRATED = 0.05


def find_limits(card: Mapping) -> list[str]:
    """The limits in the facts of a card, the most general first.

    >>> facts = {"class_names": ["cat", "dog"], "input": {"height": 64, "width": 64, "crop": None}}
    >>> find_limits({"model": facts, "data": None, "evaluations": [], "conversion": None})[0]
    'Every image gets one of the 2 classes, also an image that shows none of them.'
    """
    limits = [*_of_the_classes(card), *_of_the_input(card["model"]["input"])]
    limits += _of_the_data(card["data"], card["model"]["class_names"])
    comparison = (card["conversion"] or {}).get("comparison")
    if not card["evaluations"] and not (comparison and comparison["converted"]["top1"] is not None):
        limits.append("This file has not been evaluated: its accuracy is unknown.")
    if comparison:
        limits.append(
            f"The converted and the float32 model were compared on {comparison['images']:,} images "
            f"of {comparison['source']}; how they differ on other images is unknown."
        )
    for evaluation in card["evaluations"]:
        limits += _of_an_evaluation(evaluation)
    if card["conversion"]:
        limits += card["conversion"]["warnings"]
    return limits


def list_names(names: list, limit: int = _LISTED) -> str:
    """Names separated by commas, at most `limit` of them.

    >>> list_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def _of_the_classes(card):
    names = card["model"]["class_names"]
    several = (card.get("recipe") or {}).get("loss") == "sigmoid" or any(
        evaluation["metrics"]["several_labels"] for evaluation in card["evaluations"]
    )
    if names and not several:
        yield (
            f"Every image gets one of the {len(names):,} classes, also an image that shows none of "
            "them."
        )


def _of_the_input(image):
    if image["height"] and image["width"]:
        yield (
            f"Images are resized to {image['height']} x {image['width']} pixels: details that are "
            "lost at this size have no effect."
        )
    if image["crop"]:
        yield (
            f"Only the center square of {image['crop']:.3g} of an image's shorter side is used: "
            "what is outside has no effect."
        )


def _of_the_data(data, names):
    counts = (data or {}).get("images_per_class")
    if counts and names and len(counts) == len(names):
        few = sorted((n, name) for n, name in zip(counts, names) if n < FEW_IMAGES)
        if few:
            yield (
                f"Classes with fewer than {FEW_IMAGES} training images ({len(few):,} of "
                f"{len(names):,}): {list_names([f'{name} ({n})' for n, name in few])}."
            )
    if data and data["skipped_files"]:
        yield f"Training images that could not be read were left out: {data['skipped_files']:,}."


def _of_an_evaluation(evaluation):
    metrics, rows = evaluation["metrics"], evaluation["classes"]
    where = f"on {evaluation['data']}"
    yield f"The metrics {where} hold for images like these; no others were evaluated."
    few = sorted((row["images"], row["class"]) for row in rows if row["images"] < FEW_IMAGES)
    if few:
        yield (
            f"Classes with fewer than {FEW_IMAGES} images {where} ({len(few):,} of {len(rows):,}), "
            "whose precision and recall are uncertain: "
            f"{list_names([f'{name} ({n})' for n, name in few])}."
        )
    low = sorted(_low_recalls(rows, metrics["top1"]["value"]))
    if low:
        listed = list_names([f"{name} ({recall:.1%})" for recall, name in low])
        yield (
            f"Classes whose recall {where} is below the top-1 accuracy of "
            f"{metrics['top1']['value']:.1%}, also at the upper end of its 95 % interval: {listed}."
        )
    over = metrics["overconfidence"] or 0.0
    if abs(over) >= _MISCALIBRATED:
        yield (
            f"The confidence {where} is on average {abs(over) * 100:.1f} points "
            f"{'above' if over > 0 else 'below'} the share of right predictions."
        )
    if evaluation["unreadable_images"]:
        yield f"Images {where} that could not be read: {evaluation['unreadable_images']:,}."


def _low_recalls(rows, top1):
    for row in rows:
        if row["images"] and wilson(row["correct"], row["images"])[1] < top1:
            yield row["correct"] / row["images"], row["class"]
