"""Architecture search on CIFAR-10: guided samplers against random, short trainings as a ranking.

The space is a part of "small" with 16 points. Every point is trained once, by a search that tries
all of them; the samplers of all seeds then draw among these results. The ranking trains the first
networks five times as long. Both trainings are repeated with another seed, which shows how much of
a ranking is noise. The trainings resume.

    python benchmarks/search.py --data=cifar10_shards --out=search-out
    python benchmarks/search.py --data=cifar10_shards --out=search-out --show
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
import os
import statistics
import sys

from keras_effnet.search_space import SPACES, StageChoices, canonical_form
from tpu_train.cli import main as effnet_train
from tpu_train.recipes.table import find_recipe
from tpu_train.search.limits import LimitedSpace
from tpu_train.search.settings import SearchSettings
from tpu_train.search.trial_record import COMPLETE, TrialRecord

PART = "small-part"  # name of the space
SAMPLERS = ("random", "nsga2", "tpe")
SEEDS = 30
TRIALS = 8  # of each of these studies
RANKED = 12  # networks that are trained longer
FACTOR = 5
PARTS = ("table", "longer", "repeated", "longer-repeated")  # folders of trainings
RECIPE = {"images": 1000, "minival": 2000, "epochs": 5, "steps_per_loop": 40}


def part_of_small():
    """16 points of the small space: choices of stages 2, 3 and 4."""
    small = SPACES["small"]
    choices = (
        StageChoices(("fused",), (3,), (1,), (1,)),
        StageChoices(("mbconv", "fused"), (3,), (1, 4), (1,)),
        StageChoices(("mbconv",), (3, 5), (4,), (2,)),
        StageChoices(("mbconv",), (3,), (1, 6), (2,)),
    )
    return dataclasses.replace(small, name=PART, choices=choices)


def train_networks(data, out, name, trials, epochs, seed=0):
    """A random study of `trials` networks; the same ones whatever `epochs` and `seed`."""
    arguments = {**RECIPE, "epochs": epochs, "trials": trials, "space": PART, "data": data}
    arguments["seed"] = seed
    arguments |= {"workdir": os.path.join(out, name), "cache": os.path.join(out, "cache")}
    status = effnet_train(["search", *(f"--{k}={v}" for k, v in arguments.items())])
    if status:
        sys.exit(status)


def compare_samplers(out):
    """Draws the trials of all samplers and seeds; their rewards are those of the trained networks.

    Writes samplers.csv: the best reward after each trial.
    """
    from tpu_train.search.sampling import draw

    rewards = read_table(os.path.join(out, "table", "leaderboard.csv"), "reward")
    space = SPACES[PART]
    rows = []
    for sampler in SAMPLERS:
        for seed in range(SEEDS):
            settings = SearchSettings(
                PART,
                find_recipe("search"),
                sampler=sampler,
                sampler_seed=seed,
                population=4,
                parallel_trials=1,
            )
            limited = LimitedSpace(space, image_size=32, classes=10)
            records = []
            for number in range(TRIALS):
                stages, state = draw(settings, limited, number, records)
                reward = rewards[canonical_form(space.point(stages))]
                records.append(
                    TrialRecord(number, COMPLETE, reward, choices=stages, sampler_state=state)
                )
            best = [max(r.reward for r in records[: n + 1]) for n in range(TRIALS)]
            rows.append([sampler, seed, *(f"{b:.6f}" for b in best)])
    with open(os.path.join(out, "samplers.csv"), "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["sampler", "seed", *range(1, TRIALS + 1)], *rows])


def kendall_tau(a, b):
    """Kendall's tau-b of two lists of numbers."""
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    signs = [
        [(x[i] > x[j]) - (x[i] < x[j]) for i, j in pairs]  # 0 for a tie
        for x in (a, b)
    ]
    agreement = sum(s * t for s, t in zip(*signs))
    return agreement / math.sqrt(math.prod(sum(s * s for s in x) for x in signs))


def read_table(path, column):
    """{network: number} of a leaderboard."""
    with open(path, encoding="utf-8") as file:
        return {r["blocks"]: float(r[column]) for r in csv.DictReader(file) if r[column]}


def show(out):
    """Prints what has been measured so far."""
    table = os.path.join(out, "table", "leaderboard.csv")
    rewards = sorted(read_table(table, "reward").values(), reverse=True)
    print(f"{len(rewards)} networks: reward {rewards[0]:.4f} to {rewards[-1]:.4f}")
    path = os.path.join(out, "samplers.csv")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        for sampler in SAMPLERS:
            best = [[float(x) for x in row[2:]] for row in rows if row[0] == sampler]
            for n in (4, 6, TRIALS):
                values = [b[n - 1] for b in best]
                hits = sum(v >= rewards[0] - 1e-9 for v in values)
                print(
                    f"{sampler:8} after {n:2} trials: mean best reward "
                    f"{statistics.mean(values):.4f}, best network found with {hits} of "
                    f"{len(values)} seeds"
                )
            print(f"  of the first seeds: {[round(b[-1], 4) for b in best[:3]]}")
    parts = [p for p in PARTS if os.path.exists(os.path.join(out, p, "leaderboard.csv"))]
    for column in ("accuracy", "reward"):
        tables = {p: read_table(os.path.join(out, p, "leaderboard.csv"), column) for p in parts}
        for one, other in itertools.combinations(parts, 2):
            a, b = tables[one], tables[other]
            names = sorted(a.keys() & b.keys())
            tau = kendall_tau([a[n] for n in names], [b[n] for n in names])
            print(
                f"Kendall tau of the {column} of {len(names)} networks, {one}, {other}: {tau:.2f}"
            )
        print(f"{column}: {', '.join(parts)}")
        for n in sorted(tables["table"]):
            print("  " + " ".join(f"{tables[p].get(n, math.nan):.4f}" for p in parts), n)


def main():
    """Runs all parts, or shows their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="CIFAR-10 as TFRecord shards")
    parser.add_argument("--out", required=True, help="folder of all results")
    parser.add_argument("--show", action="store_true", help="only print what exists")
    arguments = parser.parse_args()
    space = part_of_small()
    SPACES[PART] = space
    if not arguments.show:
        data, out, epochs = arguments.data, arguments.out, RECIPE["epochs"]
        train_networks(data, out, "table", space.size(), epochs)
        compare_samplers(out)
        train_networks(data, out, "longer", RANKED, FACTOR * epochs)
        train_networks(data, out, "repeated", space.size(), epochs, seed=1)
        train_networks(data, out, "longer-repeated", RANKED, FACTOR * epochs, seed=1)
    show(arguments.out)


if __name__ == "__main__":
    main()
