"""Peak memory: training against Keras's ``fit``, and converting against TensorFlow's converter.

With "search", the memory of one process after each of several trials of a search; with "phases",
before each phase of a training.

Every contender is a separate process; its peak is ru_maxrss, the most memory that it ever had at
once, with everything that it imports. Prints a table:

    python benchmarks/memory.py train --model=efficientnet-b0 --batch_size=32 --steps=3
    python benchmarks/memory.py convert --model=efficientnet-lite0 --images=16 --size=64
    python benchmarks/memory.py search --trials=5
    python benchmarks/memory.py phases --phases=5

Training is that of benchmarks/step_throughput.py at 224 px, each with oneDNN. Both converters get
the same .keras file with random weights and the same random images, and write an int8 .tflite;
ours also searches, compares the two models and times them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile

import inference_files
import step_throughput

TRAIN = ("ours", "keras, oneDNN")
CONVERT = ("ours", "TensorFlow's converter")
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def train(options):
    """Trains a few steps."""
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        if turns > options.steps:
            _finish()

    batch = step_throughput.random_batch(options.batch_size, 224)
    contender = step_throughput.CONTENDERS[options.one]
    contender(options.model, batch, 1, len(os.sched_getaffinity(0)), turn)


def convert(options):
    """Converts a .keras file to int8."""
    images = inference_files.random_images(options.images, options.size)
    if options.one == "ours":
        import tflite

        model = tflite.load_keras(options.file)
        tflite.convert(model, calibration=images, cache=False)
    else:
        import keras
        import numpy as np
        import tensorflow as tf

        model = keras.models.load_model(options.file, compile=False)
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                [image[None].astype(np.float32)] for image in images
            )
            converter.convert()
    _finish()


def search(options):
    """Trains networks of the space "small" for two steps each, and prints the memory after each."""
    import numpy as np

    from keras_effnet.search_space import SPACES
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.recipes.table import find_recipe
    from tpu_train.search.trial_training import TrialTrainer
    from tpu_train.training.distribution import make_strategy

    strategy = make_strategy("cpu")
    images = inference_files.random_images(64, 32)
    source = from_arrays("random", images, np.arange(64) % 10, "abcdefghij")
    sizes = dict.fromkeys(("image_size_first", "image_size_last", "image_size_eval"), 32)
    recipe = dataclasses.replace(find_recipe("search"), epochs=1, batch_size=32, **sizes)
    base = SPACES["small"].base
    trainer = TrialTrainer(recipe, base, source, source, strategy, None, 10.0, lambda: "")
    for seed in range(options.trials):
        with tempfile.TemporaryDirectory() as folder:
            trainer.train(folder, SPACES["small"].sample(seed), lambda phase, accuracy: True)
        _print_memory(f"trial {seed}")


def phases(options):
    """Trains with "cifar10-random", two steps in each phase, and prints the memory before each."""
    import numpy as np

    from tpu_train.callbacks.records import Callback
    from tpu_train.input_pipeline.data_loading import from_arrays
    from tpu_train.recipes.table import find_recipe
    from tpu_train.training.distribution import make_strategy
    from tpu_train.training.run import train as train_run

    def observe(record):
        if record["event"] == "phase_start":
            _print_memory(f"before phase {record['phase']}")

    images = inference_files.random_images(64, 32)
    source = from_arrays("random", images, np.arange(64) % 10, "abcdefghij")
    count = options.phases
    recipe = find_recipe("cifar10-random")
    recipe = dataclasses.replace(recipe, batch_size=32, phases=count, epochs=count, augment="none")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="ascii") as log:
        nothing = source.take(np.arange(0))  # no evaluation
        strategy, callback = make_strategy("cpu"), Callback(observe, "of the benchmark")
        train_run(recipe, source, nothing, folder, strategy, stream=log, callback=callback)
        _print_memory("after the training")


def _print_memory(when):
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    print(f"{when}: {pages * resource.getpagesize() / 1e6:,.0f} MB", flush=True)


def _finish():
    """Ends the process, and prints its peak in MB and its processor seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{usage.ru_maxrss / 1024:.0f} {usage.ru_utime + usage.ru_stime:.0f}", flush=True)
    os._exit(0)


def peaks(options):
    """(contender, peak in MB, processor seconds) of one after the other, the project's first."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{name}={getattr(options, name)}" for name in ("model", "size", "images")]
        flags += [f"--batch_size={options.batch_size}", f"--steps={options.steps}"]
        if options.work == "convert":
            flags.append(f"--file={write_keras(options, folder)}")
        names = TRAIN if options.work == "train" else CONVERT
        for name in names:
            yield name, *_peak([options.work, f"--one={name}", *flags])


def _peak(flags):
    ran = subprocess.run(
        [sys.executable, __file__, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        check=True,
    )
    return tuple(map(float, ran.stdout.splitlines()[-1].split()))


def write_keras(options, folder):
    """The path of a .keras file of the network, written by a separate process."""
    path = os.path.join(folder, "model.keras")
    code = (
        "import sys, keras_effnet; name, size, path = sys.argv[1:]; "
        "shape = int(size), int(size), 3; "
        "keras_effnet.create_model(name, weights=None, input_shape=shape).save(path)"
    )
    command = [sys.executable, "-c", code, options.model, str(options.size), path]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True)
    return path


def parsed(argv=None):
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", choices=["train", "convert", "search", "phases"])
    parser.add_argument("--model", default="efficientnet-b0")
    parser.add_argument("--size", type=int, default=384, help="pixels, of a conversion")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--trials", type=int, default=5, help="of a search")
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    """Prints a table; with --one, runs as a contender."""
    options = parsed(argv)
    if options.work in ("search", "phases"):
        os.environ.update(ENVIRONMENT)  # before TensorFlow is imported
        {"search": search, "phases": phases}[options.work](options)
        return
    if options.one:
        {"train": train, "convert": convert}[options.work](options)
        return
    print("| | peak memory, MB | this / ours | processor s |\n|---|---|---|---|")
    first = None
    for name, peak, used in peaks(options):
        first = first or peak
        print(f"| {name} | {peak:,.0f} | {peak / first:.2f} | {used:.0f} |", flush=True)


if __name__ == "__main__":
    main()
