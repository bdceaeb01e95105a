"""The table and the plot of rounds: JSON, a page, and a picture."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from keras_effnet import html_elements
from keras_effnet.atomic_write import write_files

FILES = RECORD, PAGE, PICTURE = "rounds.json", "rounds.html", "rounds.png"


@dataclass(frozen=True)
class Round:
    """The student of a round, or the first teacher (number 0), on the evaluation images."""

    number: int
    model: str  # path of its .keras file
    parameters: int
    accuracy: float  # top-1, in [0, 1]
    interval: tuple[float, float]  # 95 % interval of it
    loss: float
    calibration_error: float
    images: int  # of the evaluation
    pseudo_labeled: int = 0  # images that the student learned from, beside the labeled ones
    examples: int = 0  # the same in an epoch, with repetitions


def describe(result: Round) -> str:
    """One line of text."""
    low, high = result.interval
    name = f"round {result.number}" if result.number else "teacher"
    learned = f", {result.pseudo_labeled:,} pseudo-labeled images" if result.number else ""
    return (
        f"{name}: top-1 {result.accuracy:.2%} ({low:.2%} to {high:.2%}) of {result.images:,} "
        f"evaluation images, loss {result.loss:.4f}, {result.parameters:,} parameters{learned}"
    )


def write_rounds(folder: str, rounds: Sequence[Round]) -> None:
    """Writes ``rounds.json``, ``rounds.html`` and ``rounds.png``: all of them, or none."""
    record = {"rounds": [asdict(r) for r in rounds]}
    write_files(
        {
            os.path.join(folder, PICTURE): _plot(rounds),
            os.path.join(folder, PAGE): _render(rounds),
            os.path.join(folder, RECORD): json.dumps(record, indent=1) + "\n",
        }
    )


def _plot(rounds):
    """PNG of the accuracy of every round, with its 95 % interval."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    accuracies = [100 * r.accuracy for r in rounds]
    below = [100 * (r.accuracy - r.interval[0]) for r in rounds]
    above = [100 * (r.interval[1] - r.accuracy) for r in rounds]
    axes.errorbar(range(len(rounds)), accuracies, [below, above], fmt="o-", capsize=4)
    axes.set_xticks(range(len(rounds)), [_name(r) for r in rounds])
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _name(result):
    return f"round {result.number}" if result.number else "teacher"


def _render(rounds):
    rows = [
        (
            _name(r),
            f"{r.accuracy:.2%}",
            f"{r.interval[0]:.2%} to {r.interval[1]:.2%}",
            f"{r.loss:.4f}",
            f"{r.calibration_error:.4f}",
            f"{r.parameters:,}",
            f"{r.pseudo_labeled:,}",
            f"{r.examples:,}",
        )
        for r in rounds
    ]
    header = (
        *("Model", "Top-1", "95 % interval", "Loss", "Calibration error", "Parameters"),
        *("Pseudo-labeled images", "In an epoch"),
    )
    best = max(rounds, key=lambda r: r.accuracy)
    body = [
        "<h1>Rounds of Noisy Student training</h1>",
        f"<p class=soft>The best model is {html_elements.text(best.model)}, of {_name(best)}.</p>",
        html_elements.section(
            "Accuracy",
            f"On {rounds[0].images:,} evaluation images, with 95 % intervals. Choosing the best "
            "round by them makes its accuracy a little too high.",
            html_elements.plot(_plot(rounds)),
        ),
        html_elements.section(
            "Rounds",
            "Each student learned from the labeled images and those that the model of the row "
            "above had labeled.",
            html_elements.table(header, rows, numbers=range(1, 8)),
        ),
    ]
    return html_elements.document("Noisy Student", "\n".join(body), "effnet-train noisy-student")
