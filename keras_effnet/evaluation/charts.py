"""Pictures of an evaluation as SVG: the confusion matrix and the reliability diagram.

The colours are those of the page (CSS variables), with defaults for a separate file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_effnet.evaluation.calibration import Calibration
from keras_effnet.html_elements import text

MOST_CLASSES = 1000  # of the confusion matrix
_NAMED = 40  # classes up to which their names and the numbers are shown
_LEVELS = 8  # of opacity, in a matrix without numbers
_INK, _SOFT, _GRID = "var(--ink, #1c2127)", "var(--soft, #59626e)", "var(--grid, #e2e4e7)"
_GOOD, _BAD = "var(--second, #0f766e)", "var(--bad, #b3261e)"
_FONT = "font-family='system-ui, sans-serif'"


def confusion_matrix(cells: np.ndarray, classes: Sequence[int], names: Sequence[str]) -> str:
    """The confusion matrix of `classes`, labels in rows, as SVG; "" for more than 1,000 classes.

    The colour of a cell is its share of the label's images. Up to 40 classes have their names and
    the numbers of images.

    Args:
        cells: int64 (cells, 3) of (label, prediction, images), without empty cells.
        classes: the classes to show, in order.
        names: of all classes.
    """
    if len(classes) > MOST_CLASSES:
        return ""
    place = {int(c): i for i, c in enumerate(classes)}
    totals = np.bincount(cells[:, 0], cells[:, 2], minlength=int(max(classes)) + 1)
    placed = [
        (place[int(r)], place[int(c)], int(n), n / totals[r], f"{names[r]} as {names[c]}: {n:,}")
        for r, c, n in cells
    ]
    if len(classes) > _NAMED:
        return _unnamed_matrix(placed, len(classes))
    return _named_matrix(placed, [names[c] for c in classes])


def reliability_diagram(calibration: Calibration) -> str:
    """Accuracy by confidence, with the number of images below, as SVG."""
    left, top, side, below = 44, 10, 320, 62
    bins = len(calibration.count)
    width = side / bins
    parts = []
    for tick in range(0, 101, 20):
        x, y = left + side * tick / 100, top + side * (1 - tick / 100)
        parts.append(
            f"<path d='M{left} {y:.1f}h{side}M{x:.1f} {top}v{side}' stroke='{_GRID}'/>"
            f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{tick}</text>"
            f"<text x='{x:.1f}' y='{top + side + below + 26}' text-anchor='middle'>{tick}</text>"
        )
    most = max(1, int(calibration.count.max()))
    for i, (n, confidence, accuracy) in enumerate(
        zip(calibration.count, calibration.confidence, calibration.accuracy)
    ):
        if not n:
            continue
        x, height, mean = left + i * width, side * accuracy, top + side * (1 - confidence)
        tip = f"{n:,} images: confidence {confidence:.1%}, accuracy {accuracy:.1%}"
        base, size = top + side + below + 10, max(1.0, below * n / most)
        parts.append(
            f"<g><title>{tip}</title>"
            f"<rect x='{x + 1:.1f}' y='{top + side - height:.1f}' width='{width - 2:.1f}' "
            f"height='{height:.1f}' fill='{_GOOD}'/>"
            f"<path d='M{x + 1:.1f} {mean:.1f}h{width - 2:.1f}' stroke='{_INK}' stroke-width='2'/>"
            f"<rect x='{x + 1:.1f}' y='{base - size:.1f}' width='{width - 2:.1f}' "
            f"height='{size:.1f}' fill='{_SOFT}'/></g>"
        )
    parts.append(
        f"<path d='M{left} {top + side}L{left + side} {top}' stroke='{_SOFT}' "
        "stroke-dasharray='5 4'/>"
        f"<text x='{left + side / 2}' y='{top + side + below + 46}' text-anchor='middle'>"
        "confidence, %</text>"
        f"<text transform='translate(12 {top + side / 2}) rotate(-90)' text-anchor='middle'>"
        "accuracy, %</text>"
        f"<text transform='translate(12 {top + side + below / 2 + 10}) rotate(-90)' "
        "text-anchor='middle'>images</text>"
    )
    return _svg("".join(parts), left + side + 12, top + side + below + 54, shrinks=True)


def _named_matrix(placed, names):
    shown = [name if len(name) <= 22 else name[:21] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
    cell = max(24, min(44, 720 // len(names)))
    margin = 16 + 7 * max(map(len, shown))
    size = cell * len(names)
    parts = [f"<rect x='{margin}' y='{margin}' width='{size}' height='{size}' fill='{_GRID}'/>"]
    for i, (name, full) in enumerate(zip(shown, names)):
        at = margin + (i + 0.5) * cell
        parts.append(
            f"<text x='{margin - 8}' y='{at + 4:.1f}' text-anchor='end'><title>{text(full)}</title>"
            f"{text(name)}</text>"
            f"<text transform='translate({at + 4:.1f} {margin - 8}) rotate(-90)'>"
            f"<title>{text(full)}</title>{text(name)}</text>"
        )
    for row, column, n, share, tip in placed:
        x, y = margin + column * cell, margin + row * cell
        fill = _GOOD if row == column else _BAD
        label = f"{n:,}" if n < 10_000 else f"{n / 1000:.0f}k"
        color = "var(--bg, #fff)" if share > 0.55 else _INK
        parts.append(
            f"<g><title>{text(tip)}</title><rect x='{x}' y='{y}' width='{cell}' height='{cell}' "
            f"fill='{fill}' fill-opacity='{0.12 + 0.88 * share:.2f}'/>"
            f"<text x='{x + cell / 2}' y='{y + cell / 2 + 4:.1f}' text-anchor='middle' "
            f"style='fill:{color}' font-size='{11 if len(label) < 4 else 9}'>{label}</text></g>"
        )
    return _svg("".join(parts), margin + size + 2, margin + size + 2)


def _unnamed_matrix(placed, classes):
    """One path for each level of opacity: a matrix may have a hundred thousand cells."""
    parts = [f"<rect width='{classes}' height='{classes}' fill='{_GRID}'/>"]
    for fill, diagonal in ((_GOOD, True), (_BAD, False)):
        levels = [[] for _ in range(_LEVELS)]
        for row, column, _, share, _ in placed:
            if (row == column) == diagonal:
                level = min(_LEVELS - 1, int(share * _LEVELS))
                levels[level].append(f"M{column} {row}h1v1h-1z")
        for level, squares in enumerate(levels):
            if squares:
                opacity = 0.3 + 0.7 * level / (_LEVELS - 1)
                parts.append(
                    f"<path fill='{fill}' fill-opacity='{opacity:.2f}' d='{''.join(squares)}'/>"
                )
    return _svg("".join(parts), classes, classes, scaled=True)


def _svg(content, width, height, *, scaled=False, shrinks=False):
    """An SVG of a fixed size; `scaled` to the width of the page, or one that `shrinks` to it."""
    size = "" if scaled else f" width='{width}' height='{height}'"
    fit = "max-width:100%;height:auto" if scaled or shrinks else "max-width:none"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'{size} {_FONT} "
        f"font-size='12' fill='none' style='{fit}'>"
        f"<style>text{{fill:{_INK}}}</style>{content}</svg>"
    )
