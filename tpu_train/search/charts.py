"""Plots of a study as SVG: cost against accuracy with the Pareto front, and reward over trials.

The colours are those of the page (CSS variables), with defaults for a separate file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras_effnet.html_elements import text
from tpu_train.search.progress import show_count, show_step_time
from tpu_train.search.trial_record import (
    COMPLETE,
    TrialRecord,
    best_so_far,
    pareto_front,
    ranked,
)

_INK, _SOFT, _GRID = "var(--ink, #1c2127)", "var(--soft, #59626e)", "var(--grid, #e2e4e7)"
_GOOD, _PLAIN = "var(--second, #0f766e)", "var(--first, #8d97a5)"
_FONT = "font-family='system-ui, sans-serif'"
_LEFT, _TOP, _WIDTH, _HEIGHT = 56, 12, 560, 300


def pareto_chart(records: Sequence[TrialRecord], cost: str) -> str:
    """Accuracy of the complete trials against "step_time" or "parameters" (logarithmic), as SVG.

    Trials of the Pareto front of accuracy, step time and parameters are filled.
    """
    trials = ranked(records)
    if not trials:
        return ""
    front = {r.number for r in pareto_front(records)}
    x = _logarithmic([getattr(r, cost) for r in trials])
    y = _linear([100 * r.accuracy for r in trials])
    unit = trials[0].step_time_unit
    points = []
    for r in sorted(trials, key=lambda r: r.number in front):
        on_front = r.number in front
        tip = (
            f"trial {r.number}, {r.network}: accuracy {r.accuracy:.2%}, "
            f"{show_step_time(r.step_time, unit)}, {r.parameters:,} parameters, "
            f"reward {r.reward:.4f}"
        )
        points.append(
            f"<circle cx='{x.place(getattr(r, cost)):.1f}' cy='{y.place(100 * r.accuracy):.1f}' "
            f"r='{5 if on_front else 4}' fill='{_GOOD if on_front else 'none'}' "
            f"stroke='{_GOOD if on_front else _PLAIN}'><title>{text(tip)}</title></circle>"
        )
    show = show_count if cost == "parameters" else lambda v: show_step_time(v, unit).split(" m")[0]
    if cost == "step_time" and unit == "seconds":
        show = _milliseconds
    name = {"parameters": "parameters"}.get(cost) or (
        "step time, ms" if unit == "seconds" else unit
    )
    return _figure(x, y, "".join(points), show, name, "accuracy, %")


def reward_chart(records: Sequence[TrialRecord]) -> str:
    """The reward of each complete trial, and the best one so far, as SVG."""
    trials = [r for r in records if r.state == COMPLETE]
    if not trials:
        return ""
    x = _linear([0, max(1, trials[-1].number)], reverse=False)
    y = _linear([r.reward for r in trials])
    points = "".join(
        f"<circle cx='{x.place(r.number):.1f}' cy='{y.place(r.reward):.1f}' r='3' "
        f"stroke='{_PLAIN}'><title>{text(f'trial {r.number}, {r.network}: {r.reward:.4f}')}"
        "</title></circle>"
        for r in trials
    )
    line = ""
    for number, best in best_so_far(records):
        line += (
            f"H{x.place(number):.1f}V{y.place(best):.1f}"
            if line
            else (f"M{x.place(number):.1f} {y.place(best):.1f}")
        )
    line += f"H{x.place(trials[-1].number):.1f}"
    points += f"<path d='{line}' stroke='{_GOOD}' stroke-width='2'/>"
    return _figure(x, y, points, lambda v: f"{v:g}", "trial", "reward; line: best so far")


class _Axis:
    """A scale from values to pixels, and its ticks."""

    def __init__(self, low, high, ticks, place):
        self.low, self.high, self.ticks, self.place = low, high, ticks, place


def _linear(values, reverse=True):
    """A vertical axis (upwards) or, not `reverse`, a horizontal one."""
    low, high = min(values), max(values)
    step = _round_step((high - low) / 5 or abs(high) / 5 or 1)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = high if high > low else low + step
    ticks = [low + i * step for i in range(round((high - low) / step) + 1)]

    def place(value):
        share = (value - low) / (high - low)
        return _TOP + _HEIGHT * (1 - share) if reverse else _LEFT + _WIDTH * share

    return _Axis(low, high, ticks, place)


def _logarithmic(values):
    """A horizontal axis."""
    low, high = min(values) / 1.08, max(values) * 1.08
    first, last = math.log(low), math.log(high)
    decade = 10 ** math.floor(math.log10(low))
    ticks = []
    while decade <= high:
        ticks += [decade * d for d in (1, 2, 3, 5, 7) if low <= decade * d <= high]
        decade *= 10

    def place(value):
        return _LEFT + _WIDTH * (math.log(value) - first) / (last - first)

    return _Axis(low, high, ticks, place)


def _round_step(step):
    decade = 10 ** math.floor(math.log10(step))
    return next(decade * d for d in (1, 2, 5, 10) if decade * d >= step)


def _milliseconds(seconds):
    return f"{seconds * 1e3:.3g}"


def _figure(x, y, content, show, x_name, y_name):
    bottom = _TOP + _HEIGHT
    parts = []
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(
            f"<path d='M{_LEFT} {at:.1f}h{_WIDTH}' stroke='{_GRID}'/>"
            f"<text x='{_LEFT - 6}' y='{at + 4:.1f}' text-anchor='end'>{round(tick, 9):g}</text>"
        )
    for tick in x.ticks:
        at = x.place(tick)
        parts.append(
            f"<path d='M{at:.1f} {_TOP}V{bottom}' stroke='{_GRID}'/>"
            f"<text x='{at:.1f}' y='{bottom + 16}' text-anchor='middle'>{show(tick)}</text>"
        )
    parts.append(
        f"<text x='{_LEFT + _WIDTH / 2}' y='{bottom + 36}' text-anchor='middle'>{text(x_name)}"
        f"</text><text transform='translate(12 {_TOP + _HEIGHT / 2}) rotate(-90)' "
        f"text-anchor='middle'>{text(y_name)}</text>"
    )
    width, height = _LEFT + _WIDTH + 12, bottom + 44
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' {_FONT} font-size='12' fill='none' "
        f"style='max-width:100%;height:auto'><style>text{{fill:{_INK}}}</style>"
        f"{''.join(parts)}{content}</svg>"
    )
