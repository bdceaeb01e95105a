"""Differences of the weights after training on one device, two devices and two processes.

Runs twenty steps of the trainer (`tpu_train.training.run`) in two phases with two image sizes and
every feature of a recipe on: RandAugment, random crops, mixup, CutMix, dropout, stochastic depth,
EMA, gradient clipping, weight decay, batch norm over all replicas, two gradient-accumulation steps.
The two devices are virtual; the two processes communicate through TF_CONFIG. Prints one row per
configuration and optimizer, in about five minutes on two cores:

    python benchmarks/equality.py
    python benchmarks/equality.py --optimizers=rmsprop --ways=devices --width=1 --depth=1
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command lines set it

STEPS = 20
CALLS = 1 + STEPS // 5  # that a run is asked whether to stop: before the first step, then every 5
WAYS = {"devices": "2 devices", "processes": "2 processes"}
ROOT = pathlib.Path(__file__).resolve().parent.parent


def recipe_of(optimizer, width, depth):
    """The papers' numbers for what learns; everything that draws or sums is on."""
    from tpu_train.recipes.table import RECIPES

    return dataclasses.replace(
        RECIPES["efficientnetv2-b0-paper"],
        name="equality",
        width=width,
        depth=depth,
        optimizer=optimizer,
        # AdamW's steps do not scale with the gradient: a tenth of the papers' for RMSprop.
        learning_rate=0.016 if optimizer == "rmsprop" else 0.0016,
        warmup_epochs=0,  # full rate from the first step
        epochs=15,  # 30 steps of 64 images, of which 20 are run
        batch_size=32,
        gradient_accumulation_first=2,
        gradient_accumulation_last=2,
        phases=3,
        image_size_first=40,
        image_size_last=56,
        image_size_eval=40,
        augment="randaugment",
        randaugment_magnitude_first=5,
        randaugment_magnitude_last=10,
        mixup_first=0.2,
        mixup_last=0.2,
        cutmix_first=0.5,
        cutmix_last=0.5,
        dropout_first=0.2,
        dropout_last=0.2,
        drop_path_first=0.2,
        drop_path_last=0.2,
        weight_decay_mode="l2" if optimizer == "rmsprop" else "decoupled",
        weight_decay=1e-5 if optimizer == "rmsprop" else 0.05,
        clip_norm=1.0,
        ema_decay=0.98,
        batch_norm_group_size=0,  # the whole accumulation step, over all replicas
        precision="float32",
        steps_per_loop=5,
    )


def run(recipe, device, workdir):
    """Trains for STEPS steps, which leaves a checkpoint in `workdir`."""
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy(device)  # before any other TensorFlow call
    import numpy as np

    from tpu_train.checkpointing.preemption import StoppedError
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.training.run import train

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 48, 64, 3)).astype(np.uint8)
    source = from_arrays("random", images, np.arange(64) % 10, "abcdefghij")
    calls = []

    def stop():
        calls.append(0)
        return f"{STEPS} steps" if len(calls) == CALLS else ""

    try:
        train(recipe, source, source, workdir, strategy, stop=stop)
    except StoppedError:
        return
    raise RuntimeError(f"the run was not stopped after {STEPS} steps")


def differences(recipe, folders):
    """The largest difference between two runs' "weights", "ema" weights and optimizer "slots".

    "moved" is the largest change of a weight since the start.
    """
    import keras
    import numpy as np

    from tpu_train.checkpointing import storage
    from tpu_train.training import model_factory

    keras.utils.set_random_seed(recipe.seed)  # as train() does
    first = model_factory.training_network(recipe, 10).get_weights()
    checkpoints = [storage.latest(os.path.join(f, "checkpoints")) for f in folders]
    steps = [c.step for c in checkpoints]
    if steps != [STEPS, STEPS]:
        raise RuntimeError(f"the runs were saved after {steps} steps, not {STEPS}")
    one, other = (c.values for c in checkpoints)

    def difference(a, b):
        return max(float(np.abs(x - y).max()) for x, y in zip(a, b))

    n = len(first)
    return {
        "weights": difference(one[:n], other[:n]),
        "ema": difference(one[n : 2 * n], other[n : 2 * n]),
        "slots": difference(one[2 * n :], other[2 * n :]),
        "moved": difference(first, one[:n]),
    }


def _start(options, optimizer, device, workdir, log, variables=None):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    environment.update(variables or {}, PYTHONPATH=str(ROOT))
    command = [
        *(sys.executable, __file__, f"--one={device}", f"--workdir={workdir}"),
        *(f"--optimizers={optimizer}", f"--width={options.width}", f"--depth={options.depth}"),
    ]
    # Log to files: a full pipe would block one worker, and so the other one.
    with open(log, "w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file), log


def _finish(*processes):
    for process, log in processes:
        if process.wait(timeout=1800):
            text = pathlib.Path(log).read_text()
            raise RuntimeError(f"{log} ended with {process.returncode}:\n{text[-3000:]}")


def _run_way(options, optimizer, way, folder):
    workdir = os.path.join(folder, way)
    if way == "processes":
        from benchmarks.local_workers import environments

        _finish(
            *(
                _start(options, optimizer, "multi-worker", workdir, f"{workdir}{i}.log", variables)
                for i, variables in enumerate(environments())
            )
        )
    else:
        device = "cpu:2" if way == "devices" else "cpu"
        _finish(_start(options, optimizer, device, workdir, f"{workdir}.log"))
    return workdir


def main(argv=None):
    """Prints a Markdown table; with --json a dict {optimizer: {way: differences}}."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--optimizers", default="rmsprop,adamw")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument(
        "--width", type=float, default=0.25, help="multiplier for EfficientNetV2-B0"
    )
    parser.add_argument("--depth", type=float, default=0.3, help="multiplier for EfficientNetV2-B0")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the device of a single run
    parser.add_argument("--workdir", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        run(
            recipe_of(options.optimizers, options.width, options.depth),
            options.one,
            options.workdir,
        )
        return
    results = {}
    for optimizer in options.optimizers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            one = _run_way(options, optimizer, "one", folder)
            results[optimizer] = {
                way: differences(
                    recipe_of(optimizer, options.width, options.depth),
                    [one, _run_way(options, optimizer, way, folder)],
                )
                for way in options.ways.split(",")
            }
    if options.json:
        print(json.dumps(results))
        return
    print("| optimizer | 1 device and | weights | EMA weights | slots | weights moved by |")
    print("|---|---|---|---|---|---|")
    for optimizer, ways in results.items():
        for way, d in ways.items():
            cells = " | ".join(f"{d[k]:.1e}" for k in ("weights", "ema", "slots", "moved"))
            print(f"| {optimizer} | {WAYS[way]} | {cells} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
