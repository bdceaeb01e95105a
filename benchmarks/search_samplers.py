"""Architecture search on CIFAR-10: TPE against random search in the space "small".

Every study is one `effnet-train search` with the same budget. Prints the table and draws the plot
of docs/results/search.md from what has finished. The studies resume; those of other numbers can run
at the same time in other processes (`--samplers`, `--seeds`).

    python benchmarks/search_samplers.py --data=cifar10_shards --out=samplers-out
    python benchmarks/search_samplers.py --out=samplers-out --picture=samplers.png
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import statistics
import sys

from tpu_train.cli import main as effnet_train

TRIALS = 150
SAMPLERS = ("random", "tpe")
SEEDS = (0, 1, 2)
SEARCH = {
    "space": "small",
    "images": 1000,
    "minival": 2000,
    "epochs": 3,
    "steps_per_loop": 48,
    "parallel_trials": 1,
    "trials": TRIALS,
}
SHOWN = (25, 50, 75, 100, TRIALS)  # numbers of trials
FIRST = 16  # trials that TPE draws at random, too
COLORS = {"random": "#888888", "tpe": "#1f6feb"}


def search(data, out, sampler, seed):
    """Runs or resumes one study."""
    arguments = {**SEARCH, "data": data, "sampler": sampler, "sampler_seed": seed}
    arguments |= {"workdir": folder(out, sampler, seed), "cache": os.path.join(out, "cache")}
    status = effnet_train(["search", *(f"--{k}={v}" for k, v in arguments.items())])
    if status:
        sys.exit(status)


def folder(out, sampler, seed):
    """The folder of a study."""
    return os.path.join(out, f"{sampler}-{seed}")


def trials(out, sampler, seed):
    """The rows of a study's finished trials, in their order."""
    path = os.path.join(folder(out, sampler, seed), "leaderboard.csv")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["reward"]]
    return sorted(rows, key=lambda row: int(row["trial"]))


def best_so_far(rows):
    """The best reward after each trial."""
    return list(itertools.accumulate((float(row["reward"]) for row in rows), max))


def show(studies):
    """Prints {(sampler, seed): rows} as two Markdown tables: best rewards, and the trials."""
    print(
        f"| sampler | seed | trials | {' | '.join(f'after {n}' for n in SHOWN)} | after as many |"
    )
    print(f"|---|---|---|{'---|' * len(SHOWN)}---|")
    for (sampler, seed), rows in studies.items():
        both = min(len(found) for (_, other), found in studies.items() if other == seed)
        best = best_so_far(rows)
        cells = [f"{best[n - 1]:.4f}" if n <= len(best) else "" for n in SHOWN]
        cells.append(f"{best[both - 1]:.4f} ({both})")
        print(f"| `{sampler}` | {seed} | {len(rows)} | {' | '.join(cells)} |")
    print("\n| sampler | seed | mean reward | mean accuracy | median parameters | best network |")
    print("|---|---|---|---|---|---|")
    for (sampler, seed), rows in studies.items():
        drawn = rows[FIRST:]
        if not drawn:
            continue
        best = max(rows, key=lambda row: float(row["reward"]))
        means = [statistics.mean(float(row[k]) for row in drawn) for k in ("reward", "accuracy")]
        parameters = statistics.median(int(row["parameters"]) for row in drawn)
        print(
            f"| `{sampler}` | {seed} | {means[0]:.3f} | {means[1]:.1%} | {parameters:,.0f} | trial "
            f"{best['trial']}: {float(best['accuracy']):.1%}, {int(best['parameters']):,} "
            f"parameters, {int(best['flops']) / 1e6:.2f} M multiply-adds |"
        )


def draw(studies, picture):
    """Draws the best reward over the trials, a line per study."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (sampler, seed), rows in studies.items():
        best = best_so_far(rows)
        label = sampler if seed == min(s for name, s in studies if name == sampler) else None
        axes.step(range(1, len(best) + 1), best, color=COLORS[sampler], where="post", label=label)
    axes.set(xlabel="trials", ylabel="best reward so far", xlim=(0, TRIALS))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.legend(title="sampler", loc="lower right")
    figure.savefig(picture, dpi=120, metadata={"Software": None})


def main():
    """Runs the studies, then shows all that exist."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="CIFAR-10 as TFRecord shards; without it, nothing is run")
    parser.add_argument("--out", required=True, help="folder of all studies")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--picture", help="PNG to write")
    options = parser.parse_args()
    if options.data:
        for seed in options.seeds:
            for sampler in options.samplers:
                search(options.data, options.out, sampler, seed)
    found = {(name, seed): trials(options.out, name, seed) for name in SAMPLERS for seed in SEEDS}
    studies = {study: rows for study, rows in found.items() if rows}
    show(studies)
    if options.picture:
        draw(studies, options.picture)


if __name__ == "__main__":
    main()
