"""Training throughput on a CPU: the trainer's step, keras.applications under `fit`, and timm.

Every contender is a separate process on the same cores, with the same network, batch, precision
(float32) and number of threads, and reads one batch repeatedly from memory. They take turns of a
few steps, so that other programs slow all of them alike; the first turns are not counted. Prints
the tables of docs/results/step-throughput.md, in about ten minutes on two cores:

    python benchmarks/step_throughput.py
    python benchmarks/step_throughput.py --models efficientnet-b0 --contenders ours keras --rounds=5
    python benchmarks/step_throughput.py --size=96 --batch_size=32 --freeze  # of a frozen backbone

All train with RMSProp, label smoothing, dropout and stochastic depth. Ours is the trainer's step,
with L2, EMA of all weights and statistics, the gradient norm and the accuracy. Keras's `fit` runs
with and without its EMA (of trainable weights), and without metrics. timm's step is that of its
train.py, with its RMSpropTF and EMA; its images are already normalized.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CLASSES, SEED = 1000, 0
UNCOUNTED = 2  # turns
KERAS = {"efficientnet-b0": "EfficientNetB0", "efficientnetv2-b0": "EfficientNetV2B0"}
TIMM = {"efficientnet-b0": "tf_efficientnet_b0", "efficientnetv2-b0": "tf_efficientnetv2_b0"}


def random_batch(batch_size, size, classes=CLASSES):
    """uint8 (batch, size, size, 3) and int32 (batch,)."""
    import numpy as np

    draw = np.random.default_rng(SEED)
    images = draw.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    return images, draw.integers(0, classes, batch_size, dtype=np.int32)


def _tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def trainer_step(recipe, classes, *, cached=False):
    """``run_steps(count)`` of `tpu_train`'s step, as train.py runs it, on one batch from memory.

    `cached`: on the outputs of the frozen layers, which are computed once.
    """
    import tensorflow as tf

    from tpu_train.recipes.phases import make_phases
    from tpu_train.training import distributed_layers
    from tpu_train.training.distribution import make_strategy
    from tpu_train.training.feature_cache import split_model
    from tpu_train.training.lr_schedule import learning_rate
    from tpu_train.training.run_setup import build_training
    from tpu_train.training.step import StepSpec, graph_rewriting, trace_steps

    examples = 100_000
    (phase,) = make_phases(recipe, examples)
    strategy = make_strategy("cpu")
    net, _, state = build_training(recipe, [phase], classes, strategy)
    distributed_layers.set_phase(net, recipe, phase)
    images, labels = random_batch(recipe.batch_size, recipe.image_size_last, classes)
    if cached:
        backbone, net = split_model(net, recipe.freeze)
        images = backbone(images, training=False)
    batch = tf.data.Dataset.from_tensors({"image": images, "label": labels}).repeat()
    batches = iter(strategy.distribute_datasets_from_function(lambda context: batch))

    def rate(step):
        return learning_rate(
            recipe, phase, step, examples=examples, total_examples=recipe.epochs * examples
        )

    run = trace_steps(StepSpec(recipe, phase, classes, strategy, net, state, rate), batches)
    done = 0

    def run_steps(count):
        nonlocal done
        with graph_rewriting(strategy):
            run(batches, tf.constant(done, tf.int64), tf.constant(count, tf.int64)).numpy()
        done += count

    return run_steps


def ours(model, batch, steps, threads, turn, *, freeze="none", cached=False):
    """`tpu_train`'s step with the paper's recipe; `cached` as for :func:`trainer_step`."""
    from tpu_train.recipes.table import find_recipe

    _tensorflow(threads)
    batch_size, size = batch[0].shape[:2]
    recipe = dataclasses.replace(
        find_recipe(model),
        batch_size=batch_size,
        phases=1,
        image_size_first=size,
        image_size_last=size,
        precision="float32",
        freeze=freeze,
    )
    if cached:
        recipe = dataclasses.replace(recipe, drop_path_first=0.0, drop_path_last=0.0)
    run_steps = trainer_step(recipe, CLASSES, cached=cached)
    for _ in range(1_000_000):
        run_steps(steps)
        turn()


def keras_fit(model, batch, steps, threads, turn, *, averages, frozen=False):
    """keras.applications' network under compile and fit."""
    tf = _tensorflow(threads)
    import keras

    network = getattr(keras.applications, KERAS[model])(
        weights=None, classes=CLASSES, classifier_activation=None, input_shape=batch[0].shape[1:]
    )
    for layer in network.layers[:-1]:
        layer.trainable = not frozen
    network.compile(
        optimizer=keras.optimizers.RMSprop(
            1e-4, rho=0.9, momentum=0.9, epsilon=1e-3, use_ema=averages, ema_momentum=0.9999
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        jit_compile=False,
    )
    images, labels = batch
    pair = images, keras.utils.to_categorical(labels, CLASSES)

    class Turns(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (batch + 1) % steps == 0:
                turn()

    batches = tf.data.Dataset.from_tensors(pair).repeat()
    network.fit(batches, steps_per_epoch=1_000_000, verbose=0, callbacks=[Turns()])


def timm_step(model, batch, steps, threads, turn, *, channels_last, compiled=False):
    """The network of timm, and the step of its train.py; `compiled` by torch.compile."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from tools.foreign import import_torch_projects

    torch, _, timm = import_torch_projects()
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    torch.set_num_threads(threads)
    form = torch.channels_last if channels_last else torch.contiguous_format
    network = timm.create_model(TIMM[model], num_classes=CLASSES, drop_rate=0.2, drop_path_rate=0.2)
    network = network.to(memory_format=form).train()
    optimizer = create_optimizer_v2(
        network, opt="rmsproptf", lr=1e-4, weight_decay=1e-5, momentum=0.9, eps=1e-3
    )
    loss_of = LabelSmoothingCrossEntropy(0.1)
    averages = ModelEmaV3(network, decay=0.9999)
    scores = torch.compile(network) if compiled else network
    images, labels = batch
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    images = images.contiguous(memory_format=form)
    labels = torch.from_numpy(labels).long()
    for done in range(1, 1_000_000):
        loss = loss_of(scores(images), labels)
        loss.backward()
        optimizer.step()
        averages.update(network, step=done)
        optimizer.zero_grad()
        loss.item()
        if done % steps == 0:
            turn()


CONTENDERS = {
    "ours": ours,
    "keras": lambda *a: keras_fit(*a, averages=False),
    "keras, oneDNN": lambda *a: keras_fit(*a, averages=False),
    "keras, oneDNN, averages": lambda *a: keras_fit(*a, averages=True),
    "timm": lambda *a: timm_step(*a, channels_last=False),
    "timm, channels last": lambda *a: timm_step(*a, channels_last=True),
    "timm, compiled": lambda *a: timm_step(*a, channels_last=True, compiled=True),
    "ours, without oneDNN": ours,
}
FROZEN = {
    "ours": ours,
    "ours, frozen backbone": lambda *a: ours(*a, freeze="backbone"),
    "ours, frozen and computed once": lambda *a: ours(*a, freeze="backbone", cached=True),
    "keras, oneDNN": lambda *a: keras_fit(*a, averages=False),
    "keras, oneDNN, frozen backbone": lambda *a: keras_fit(*a, averages=False, frozen=True),
}
ONEDNN = {
    **dict.fromkeys(FROZEN, "1"),
    "keras, oneDNN, averages": "1",
    "ours, without oneDNN": "0",
}


def serve(options):
    """Runs one contender: one turn per input line; prints its wall-clock and processor seconds."""
    os.sched_setaffinity(0, options.cores)  # before anything counts the cores
    began = None

    def turn():
        nonlocal began
        if began is not None:
            now = time.perf_counter(), time.process_time()
            print(json.dumps([now[0] - began[0], now[1] - began[1]]), flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        began = time.perf_counter(), time.process_time()

    batch = random_batch(options.batch_size, options.size)
    {**CONTENDERS, **FROZEN}[options.one](
        options.models[0], batch, options.steps, len(options.cores), turn
    )


def compare(model, options):
    """{contender: [(seconds, processor seconds) per step, ...]}, one entry per round."""
    flags = [f"--batch_size={options.batch_size}", f"--steps={options.steps}"]
    flags += [f"--size={options.size}"]
    flags += ["--models", model, "--cores", *map(str, options.cores)]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": str(len(options.cores)),
    }
    running, logs = {}, {}
    with contextlib.ExitStack() as stack:
        for name in options.contenders:
            logs[name] = stack.enter_context(tempfile.TemporaryFile("w+"))
            running[name] = subprocess.Popen(
                [sys.executable, __file__, f"--one={name}", *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=logs[name],
                text=True,
                env=environment
                | ({"TF_ENABLE_ONEDNN_OPTS": ONEDNN[name]} if name in ONEDNN else {}),
            )
            stack.callback(running[name].kill)
        times = {name: [] for name in running}
        for _ in range(UNCOUNTED + options.rounds):
            for name, process in running.items():
                process.stdin.write("turn\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{name} ended: {_last_line(logs[name])}")
                times[name].append([s / options.steps for s in json.loads(line)])
            print(".", end="", file=sys.stderr, flush=True)
    return {name: t[UNCOUNTED:] for name, t in times.items()}


def _last_line(log):
    log.seek(0)
    return (log.read().strip().splitlines() or ["no message"])[-1]


def table(model, times, batch_size):
    """The Markdown table of one network."""
    first = next(iter(times))
    reference = [batch_size / wall for wall, _ in times[first]]
    lines = [
        f"| {model} | images/s | lowest to highest | {first} / this | in the same rounds "
        "| processor s per step |",
        "|---|---|---|---|---|---|",
    ]
    for name, steps in times.items():
        speeds = [batch_size / wall for wall, _ in steps]
        ratios = sorted(mine / its for mine, its in zip(reference, speeds))
        lines.append(
            f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f} to {max(speeds):.1f} "
            f"| {statistics.median(reference) / statistics.median(speeds):.2f} "
            f"| {ratios[0]:.2f} to {ratios[-1]:.2f} "
            f"| {statistics.median(cpu for _, cpu in steps):.2f} |"
        )
    return "\n".join(lines)


def parsed(argv=None):
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(KERAS), choices=list(KERAS))
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS, *FROZEN])
    parser.add_argument("--freeze", action="store_true", help="compare those of a frozen backbone")
    parser.add_argument("--size", type=int, default=224, help="of the images, pixels a side")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds")
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--one", choices=[*CONTENDERS, *FROZEN], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.contenders = options.contenders or list(FROZEN if options.freeze else CONTENDERS)
    return options


def main(argv=None):
    """Prints one table per network; with --one, runs as a contender."""
    options = parsed(argv)
    if options.one:
        serve(options)
    for model in options.models:
        print(table(model, compare(model, options), options.batch_size), flush=True)
        print()


if __name__ == "__main__":
    main()
