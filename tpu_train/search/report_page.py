"""The HTML page of a study: one file without network access, scripts or other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_effnet import html_elements as html
from tpu_train.search import charts
from tpu_train.search.progress import show_count, show_seconds, show_step_time
from tpu_train.search.settings import SearchSettings
from tpu_train.search.trial_record import (
    COMPLETE,
    FAILED,
    PRUNED,
    TrialRecord,
    pareto_front,
    ranked,
)

GENERATOR = "effnet-train search"
_ROWS = 50  # of the table; the CSV has all


def render_page(
    settings: SearchSettings, records: Sequence[TrialRecord], reference: Mapping, data: str
) -> str:
    """The page.

    Args:
        settings: of the study.
        records: all trials so far.
        reference: "network", "parameters", "step_time", "source", "unit" and "device" of the
            network that costs relate to.
        data: where the images are from.
    """
    sections = [_head(settings, records, data)]
    if ranked(records):
        sections += [_best(records), _plots(records), _table(records)]
    sections += [_failures(records), _facts(settings, records, reference)]
    title = f"Architecture search in {settings.space}"
    return html.document(title, "\n".join(s for s in sections if s), GENERATOR)


def _head(settings, records, data):
    states = {
        "complete": sum(r.state == COMPLETE and r.duplicate_of is None for r in records),
        "repeated networks": sum(r.duplicate_of is not None for r in records),
        "ended early": sum(r.state == PRUNED and r.duplicate_of is None for r in records),
        "failed": sum(r.state == FAILED and r.duplicate_of is None for r in records),
        "not finished": sum(not r.is_finished for r in records),
    }
    counts = ", ".join(f"{n} {name}" for name, n in states.items() if n)
    return (
        f"<h1>Architecture search <span class=soft>in the space</span> "
        f"{html.text(settings.space)}</h1>\n<p class=soft>{html.text(settings.sampler)} sampler, "
        f"{len(records)} trials ({counts or 'none'}), data {html.text(data)}</p>"
    )


def _best(records):
    best, front = ranked(records)[0], pareto_front(records)
    cards = [
        html.card(
            "Best reward",
            f"{best.reward:.4f}",
            [f"trial {best.number}", best.network],
            "accuracy times powers of step time and parameters",
        ),
        html.card("Its accuracy", f"{best.accuracy:.2%}", [], "on the minival, after a short run"),
        html.card(
            "Its step time",
            show_step_time(best.step_time, best.step_time_unit),
            [best.step_time_source],
            f"device: {best.device}",
        ),
        html.card(
            "Its size",
            show_count(best.parameters),
            [f"{show_count(best.flops)} multiply-adds"],
            "parameters, and multiply-adds of an image",
        ),
        html.card(
            "Pareto front", f"{len(front)}", ["networks"], "no other one is better in all three"
        ),
    ]
    rows = [
        [str(i), f"<code>{html.text(block)}</code>"]
        for i, block in enumerate(best.blocks.split(), start=1)
    ]
    return f"<div class=cards>{''.join(cards)}</div>\n" + html.section(
        "The best network", "Its stages", html.table(["stage", "blocks"], rows)
    )


def _plots(records):
    plots = (
        ("Step time and accuracy", charts.pareto_chart(records, "step_time")),
        ("Parameters and accuracy", charts.pareto_chart(records, "parameters")),
        ("Reward over trials", charts.reward_chart(records)),
    )
    meaning = (
        "Filled: the Pareto front of accuracy, step time and parameters, so a filled trial may be "
        "beaten in the two quantities of one plot"
    )
    shown = "".join(
        f"<div class=plot><b>{html.text(name)}</b><br>{svg}</div><br>" for name, svg in plots
    )
    return html.section("Trials", meaning, shown)


def _table(records):
    front = {r.number for r in pareto_front(records)}
    rows = [
        [
            str(rank),
            str(r.number),
            f"<span class=wrap>{html.text(r.network)}</span>",
            f"{r.reward:.4f}",
            f"{r.accuracy:.2%}",
            html.text(show_step_time(r.step_time, r.step_time_unit)),
            show_count(r.parameters),
            "yes" if r.number in front else "",
        ]
        for rank, r in enumerate(ranked(records)[:_ROWS], start=1)
    ]
    header = ["", "trial", "network", "reward", "accuracy", "step time", "parameters", "Pareto"]
    meaning = f"The best {len(rows)}; leaderboard.csv has all trials with their block strings"
    return html.section("Leaderboard", meaning, html.table(header, rows, range(3, 7)))


def _failures(records):
    failed = [r for r in records if r.state == FAILED and r.duplicate_of is None]
    if not failed:
        return ""
    rows = [[str(r.number), html.text(r.network), html.text(r.error)] for r in failed]
    return html.section(
        "Failed trials", "They count as trials", html.table(["trial", "network", "error"], rows)
    )


def _facts(settings, records, reference):
    recipe = settings.recipe
    seconds = sum(r.seconds or 0.0 for r in records)
    facts = {
        "Space": settings.space,
        "Sampler": f"{settings.sampler}, seed {settings.sampler_seed}",
        "Pruner": settings.pruner,
        "Reward": f"accuracy x S^{settings.step_time_exponent:g} x "
        f"P^{settings.parameters_exponent:g}, S and P relative to {reference['network']}",
        "Reference": f"{show_step_time(reference['step_time'], reference['unit'])}, "
        f"{reference['parameters']:,} parameters",
        "Step time": f"{reference['source']}, device {reference['device']}",
        "Limits": _limits(settings),
        "Recipe": f"{recipe.name}: {recipe.epochs:g} epochs, {recipe.image_size_last} px, "
        f"batch {recipe.batch_size}",
        "Images": f"{settings.images or 'all'} to train on, minival {settings.minival:g}",
        "Training": show_seconds(seconds) + ", all trials together",
    }
    rows = [[html.text(name), html.text(value)] for name, value in facts.items()]
    return html.section("The study", "What defines it", html.table(["", ""], rows))


def _limits(settings):
    limits = {"parameters": settings.max_parameters, "multiply-adds": settings.max_flops}
    return ", ".join(f"{n:,} {name}" for name, n in limits.items() if n) or "none"
