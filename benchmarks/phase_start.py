"""Time to start a training phase: tracing the step, the first step and a later step.

Runs the trainer's step (`tpu_train.training.step`) on random images, one phase on one CPU device:
as trained (TensorFlow's graph rewriting is off on a CPU) and with rewriting on, alternating, each
in a new process. Prints the table of docs/results/phase-start.md, in about four minutes on two
cores:

    python benchmarks/phase_start.py
    python benchmarks/phase_start.py --model=efficientnetv2-s --image_size=64 --runs=1
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

LATER = (1, 5, 10)  # steps a host call


def measure(model, batch_size, image_size, *, rewriting):
    """Seconds of tracing, of the first step and of a later step (median of the calls' means).

    Also the processor seconds of the first two.
    """
    import numpy as np
    import tensorflow as tf

    from tpu_train.input_pipeline.batches import training_batches
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.recipes.phases import make_phases
    from tpu_train.recipes.table import RECIPES
    from tpu_train.training import distributed_layers, model_factory
    from tpu_train.training.distribution import make_strategy
    from tpu_train.training.lr_schedule import learning_rate
    from tpu_train.training.step import StepSpec, TrainState, graph_rewriting, trace_steps

    images = np.random.default_rng(0).integers(0, 256, (4 * batch_size, 32, 32, 3))
    source = from_arrays(
        "random", images.astype(np.uint8), np.arange(len(images)) % 10, [str(i) for i in range(10)]
    )
    recipe = dataclasses.replace(
        RECIPES["digits"],
        model=model,
        batch_size=batch_size,
        phases=1,
        image_size_first=image_size,
        image_size_last=image_size,
        image_size_eval=image_size,
        epochs=(2 + sum(LATER)) / 4,
    )
    (phase,) = make_phases(recipe, source.examples)
    strategy = make_strategy("cpu")
    network = model_factory.training_network(recipe, len(source.classes))
    with strategy.scope():
        net, ema_net = (
            distributed_layers.training_clone(network, on_cpu=True),
            distributed_layers.training_clone(network),
        )
        state = TrainState.create(net, ema_net, recipe, [phase])
    distributed_layers.set_phase(net, recipe, phase)
    batches = iter(
        strategy.distribute_datasets_from_function(
            lambda context: training_batches(
                source,
                recipe,
                phase,
                first_step=phase.first_step,
                end_step=phase.end_step,
                replicas=1,
                host=0,
                hosts=1,
            )
        )
    )

    def rate(step):
        return learning_rate(
            recipe,
            phase,
            step,
            examples=source.examples,
            total_examples=phase.end_step * phase.batch_size,
        )

    def clocks():
        return time.perf_counter(), time.process_time()

    def call(step, steps):
        run_steps(batches, tf.constant(step, tf.int64), tf.constant(steps, tf.int64)).numpy()

    with contextlib.nullcontext() if rewriting else graph_rewriting(strategy):
        began = clocks()
        run_steps = trace_steps(
            StepSpec(recipe, phase, len(source.classes), strategy, net, state, rate), batches
        )
        traced = clocks()
        call(0, 1)
        stepped = clocks()
        later, step = [], 1
        for steps in LATER:
            before = time.perf_counter()
            call(step, steps)
            later.append((time.perf_counter() - before) / steps)
            step += steps
    return {
        "tracing": traced[0] - began[0],
        "tracing, processor": traced[1] - began[1],
        "first step": stepped[0] - traced[0],
        "first step, processor": stepped[1] - traced[1],
        "a later step": statistics.median(later),
    }


def main(argv=None):
    """Prints the table, or with --one a single measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="efficientnetv2-b0")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument(
        "--runs", type=int, default=3, help="processes per configuration; the median is printed"
    )
    parser.add_argument("--one", choices=["as trained", "rewriting on"], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        rewriting = options.one == "rewriting on"
        print(
            json.dumps(
                measure(options.model, options.batch_size, options.image_size, rewriting=rewriting)
            )
        )
        return
    runs = {"as trained": [], "rewriting on": []}
    for _ in range(options.runs):
        for which, results in runs.items():
            command = [sys.executable, __file__, f"--one={which}", f"--model={options.model}"]
            command += [f"--batch_size={options.batch_size}", f"--image_size={options.image_size}"]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results.append(json.loads(out.splitlines()[-1]))
    print("| seconds | " + " | ".join(runs) + " |\n|---|---|---|")
    for what in next(iter(runs.values()))[0]:
        medians = (statistics.median(r[what] for r in results) for results in runs.values())
        print(f"| {what} | " + " | ".join(f"{m:.2f}" for m in medians) + " |")


if __name__ == "__main__":
    main()
