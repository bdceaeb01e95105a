"""Architecture search on CIFAR-10: how short trainings rank networks.

The networks are all 16 of a part of the space "small". The first of them are also trained five
times as long. Both trainings are repeated with another seed, which shows how much of a ranking is
noise. The trainings resume.

    python benchmarks/search_ranking.py --data=cifar10_shards --out=search-out
    python benchmarks/search_ranking.py --data=cifar10_shards --out=search-out --show
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
import os
import sys

from keras_effnet.search_space import SPACES, StageChoices
from tpu_train.cli import main as effnet_train

PART = "small-part"  # name of the space
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
        train_networks(data, out, "longer", RANKED, FACTOR * epochs)
        train_networks(data, out, "repeated", space.size(), epochs, seed=1)
        train_networks(data, out, "longer-repeated", RANKED, FACTOR * epochs, seed=1)
    show(arguments.out)


if __name__ == "__main__":
    main()
