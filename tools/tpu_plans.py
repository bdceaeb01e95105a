"""The table of docs/tpu-plan.md: every variant's first and last phase, compiled for a TPU v5e-8.

Each row is the trainer's step, compiled by the TPU compiler in a process of its own, at the batch
of the variant's recipe (4096, 512 a core) or, where that would not fit, at a power of two that
does. Small networks come first. It takes hours; what is done is kept, and the same command goes on:

    python benchmarks/tpu_plans.py --cache=plan-cache
    python benchmarks/tpu_plans.py --doc=docs/tpu-plan.md

The first compiles, the second only writes the table into the document. With --again, the first goes
through all rows anew: those whose step is the same come out of the cache in a minute each.
"""

import argparse
import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from keras_effnet import cost
from keras_effnet.variants import VARIANTS
from tpu_train.recipes.phases import phases
from tpu_train.recipes.published import RECIPES

TOPOLOGY = "v5e:2x4"
EXAMPLES, CLASSES = 1_281_167, 1000
MARKS = "<!-- made by benchmarks/tpu_plans.py -->", "<!-- end -->"
_GIB = 2**30


def recipe_of(variant):
    """The variant's row as in the paper, else as in the official code, else B7's at its size."""
    for version in ("paper", "code"):
        if f"{variant.name}-{version}" in RECIPES:
            return RECIPES[f"{variant.name}-{version}"]
    return dataclasses.replace(
        RECIPES["efficientnet-b7-paper"],
        name=f"{variant.name}, as efficientnet-b7-paper",
        model=variant.name,
        image_size_first=variant.image_size,
        image_size_last=variant.image_size,
        image_size_eval=variant.image_size,
        dropout_first=variant.dropout_rate,
        dropout_last=variant.dropout_rate,
    )


def rows():
    """(variant, number of a phase), the first and last phase of every variant, small ones first."""

    def work(row):
        name, number = row
        size = phases(recipe_of(VARIANTS[name]), EXAMPLES)[number - 1].image_size
        return cost(name, image_size=size, batch_size=1, bytes_per_value=2).activation_bytes

    every = [(v.name, n) for v in VARIANTS.values() for n in sorted({1, recipe_of(v).phases})]
    return sorted(every, key=work)


def measure(name, number, cache):
    """A row: what was compiled, as a dictionary."""
    from tpu_train.tpu_compile import plan

    began = time.monotonic()
    recipe = recipe_of(VARIANTS[name])
    topology = plan.open_topology(TOPOLOGY)
    phase = plan.checked_phases(recipe, topology.cores, EXAMPLES)[number - 1]
    own = phase.batch_size // topology.cores
    batch, refused = min(own, _guess(name, phase.image_size, topology.hbm_bytes)), 0
    while True:
        step = _lowered(recipe, phase, batch, topology.cores)
        compiled = plan.compile_step(*step, topology, batch, cache)
        print(f"{name} {phase.image_size} px, {batch}: {compiled}", file=sys.stderr, flush=True)
        if compiled.fits or batch == 2:  # mixup and CutMix take pairs
            break
        refused, batch = batch, batch // 2
    return {
        "variant": name,
        "recipe": recipe.name,
        "phase": number,
        "image_size": phase.image_size,
        "recipe_batch": own,
        "refused": refused,
        "roofline_seconds": plan.roofline_seconds(compiled, topology),
        "cores": topology.cores,
        "hbm_there_is": topology.hbm_bytes,
        "compiler": topology.compiler,
        "seconds": round(time.monotonic() - began),
        **dataclasses.asdict(compiled),
    }


def _lowered(recipe, phase, batch, cores):
    """The step, and nothing else: L2's variables take 8 GB, which the compiler needs afterwards."""
    import keras

    from tpu_train.tpu_compile import plan

    trained = plan.trainee(recipe, cores, classes=CLASSES, examples=EXAMPLES)
    step = plan.lower(trained, phase, batch)
    del trained
    keras.backend.clear_session()
    gc.collect()
    return step


def _guess(name, image_size, hbm_bytes):
    """The power of two that should fit: variables, and 1.35 times the activations (as measured)."""
    one = cost(name, image_size=image_size, batch_size=1, bytes_per_value=2)
    most = (0.97 * hbm_bytes - 20 * one.parameters) / (1.35 * one.activation_bytes)
    return max(2, 1 << int(math.log2(max(1, most))))


def table(results):
    """The rows as Markdown, in the order of the variants."""
    lines = [
        "| variant | phase | image size | batch a core | HBM, GiB | TFLOP | GB moved | "
        "roofline, ms | images/s on the roofline, 8 cores | MB summed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = {name: i for i, name in enumerate(VARIANTS)}
    for r in sorted(results, key=lambda r: (order[r["variant"]], r["phase"])):
        begin = f"| {r['variant']} | {r['phase']} | {r['image_size']} | {r['batch']} | "
        if r["error"]:
            lines.append(f"{begin}does not fit | | | | | |")
            continue
        per_second = r["cores"] * r["batch"] / r["roofline_seconds"]
        lines.append(
            f"{begin}{r['hbm_bytes'] / _GIB:.2f} | {r['flops'] / 1e12:.2f} | "
            f"{r['moved_bytes'] / 1e9:.1f} | {r['roofline_seconds'] * 1e3:.0f} | "
            f"{per_second:,.0f} | {r['reduced_bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def main():
    """Compiles what is missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", default="docs/results/tpu-plans.json", help="added to")
    parser.add_argument("--cache", default="plan-cache", help="folder that keeps compilations")
    parser.add_argument("--doc", help="Markdown file to write the table into; compiles nothing")
    parser.add_argument("--again", action="store_true", help="all rows, also those that are there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, number = options.one.split(":")
        print(json.dumps(measure(name, int(number), options.cache)))
        return
    results = []
    if os.path.exists(options.results):
        with open(options.results) as file:
            results = json.load(file)
    if options.doc:
        _write_table(options.doc, table(results))
        return
    done = set() if options.again else {(r["variant"], r["phase"]) for r in results}
    for name, number in rows():
        if (name, number) in done:
            continue
        command = [sys.executable, __file__, f"--one={name}:{number}", f"--cache={options.cache}"]
        command += [f"--results={options.results}"]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            print(f"{name}, phase {number}: failed, status {ran.returncode}", file=sys.stderr)
            continue
        results = [r for r in results if (r["variant"], r["phase"]) != (name, number)]
        results.append(json.loads(ran.stdout.splitlines()[-1]))
        with open(f"{options.results}.partial", "w") as file:
            json.dump(results, file, indent=1)
        os.replace(f"{options.results}.partial", options.results)
        print(f"{len(results)} of {len(rows())}: {name}, phase {number}", flush=True)


def _write_table(path, text):
    with open(path) as file:
        before, _, rest = file.read().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
    with open(f"{path}.partial", "w") as file:
        file.write(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    os.replace(f"{path}.partial", path)


if __name__ == "__main__":
    main()
