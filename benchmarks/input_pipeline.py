"""Throughput of input pipelines on one core, from JPEG files to augmented 224-pixel batches.

Every pipeline reads the same files, crops at random (5 to 100 % of the area), resizes to 224,
flips, and applies RandAugment with 2 operations of magnitude 10. The result is uint8 batches of 20:

- ours: the input pipeline of `effnet-train`;
- official: the steps of google/automl efficientnetv2 (preprocessing.py), which decodes the whole
  image, with official_randaugment.py. Needs TensorFlow 2.15 with tensorflow-addons
  (`--legacy-python`);
- keras_cv: its RandomCropAndResize, RandomFlip and RandAugment;
- torchvision: Pillow, RandomResizedCrop, RandomHorizontalFlip, RandAugment.

Each runs in a separate process with one thread. All are pinned to the same core and take turns, so
that other programs slow all of them alike. The measure is the process's processor time, which other
programs affect less than wall-clock time; a round is 400 images. A second table compares the time
of each operation, ours and the official one. Prints the tables of docs/results/input-pipeline.md,
in about ten minutes:

    python benchmarks/input_pipeline.py --photos=photos --legacy-python=.venv-legacy/bin/python
"""

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

from image_operations import ARGUMENTS, BATCH, SIZE, endless, operation_of

# Batches per round. The untimed ones were prefetched during the turns of others.
_UNTIMED, _TIMED = 10, 20
LAYERS, MAGNITUDE, AREA = 2, 10, (0.05, 1.0)
CONTENDERS = ("ours", "official", "keras_cv", "torchvision")


def files_of(folder):
    """The paths of a folder's JPEG files, sorted."""
    return sorted(
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.lower().endswith((".jpg", ".jpeg"))
    )


# What each contender does: (files, with RandAugment or without) -> an endless iterator of batches.


def ours(files, policy=True):
    """The dataset that the trainer trains from."""
    import dataclasses

    import numpy as np

    from tpu_train.input_pipeline.batches import training_batches
    from tpu_train.input_pipeline.image_source import of_files
    from tpu_train.recipes.phases import make_phases
    from tpu_train.recipes.table import find_recipe

    recipe = dataclasses.replace(
        find_recipe("photos"),
        **{
            "phases": 1,
            "image_size_last": SIZE,
            "random_crop_min_area": AREA[0],
            "batch_size": BATCH,
        },
        **{
            "randaugment_magnitude_last": MAGNITUDE,
            "randaugment_layers": LAYERS,
            "mixup_last": 0.0,
        },
        augment="randaugment" if policy else "none",
    )
    source = of_files("photos", ("a", "b"), np.zeros(len(files), np.int32), files, files)
    (phase,) = make_phases(recipe, source.examples)
    steps = {"first_step": 0, "end_step": 10**6, "replicas": 1}
    return endless(training_batches(source, recipe, phase, **steps))


def official(files, policy=True):
    """google/automl's pipeline, its steps and their kinds of TensorFlow operations."""
    import tensorflow as tf
    from official_randaugment import randaugment

    def example(path):
        image = tf.io.decode_image(tf.io.read_file(path), channels=3)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([0, 0, 4]),
            min_object_covered=0.0,
            area_range=AREA,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, begin, size)
        image.set_shape([None, None, 3])
        image = tf.image.random_flip_left_right(tf.image.resize(image, [SIZE, SIZE]))
        image = tf.cast(tf.clip_by_value(image, 0.0, 255.0), tf.uint8)
        return randaugment(image, LAYERS, ARGUMENTS) if policy else image

    return endless(_dataset(files).map(example, tf.data.AUTOTUNE).batch(BATCH).prefetch(2))


def keras_cv(files, policy=True):
    """keras_cv's layers: the crop an image at a time, the rest on batches."""
    import keras_cv
    import tensorflow as tf

    crop = keras_cv.layers.RandomCropAndResize(
        (SIZE, SIZE), crop_area_factor=AREA, aspect_ratio_factor=(3 / 4, 4 / 3)
    )
    layers = [keras_cv.layers.RandomFlip("horizontal")]
    if policy:
        layers.append(
            keras_cv.layers.RandAugment(
                (0, 255), augmentations_per_image=LAYERS, magnitude=MAGNITUDE / 10
            )
        )

    def example(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.ensure_shape(crop(tf.cast(image, tf.float32)), [SIZE, SIZE, 3])

    def batch(images):
        for layer in layers:
            images = layer(images)
        return tf.cast(images, tf.uint8)

    data = _dataset(files).map(example, tf.data.AUTOTUNE).batch(BATCH)
    return endless(data.map(batch, tf.data.AUTOTUNE).prefetch(2))


def torchvision(files, policy=True):
    """Transforms of torchvision, on Pillow's images."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from PIL import Image

    from tools.foreign import import_torch_projects

    torch, tv, _ = import_torch_projects()
    torch.set_num_threads(1)
    transforms = [
        tv.transforms.RandomResizedCrop(SIZE, scale=AREA),
        tv.transforms.RandomHorizontalFlip(),
        *([tv.transforms.RandAugment(LAYERS, MAGNITUDE)] if policy else []),
        tv.transforms.PILToTensor(),
    ]
    run = tv.transforms.Compose(transforms)

    def batches():
        batch = []
        for path in itertools.cycle(files):
            with Image.open(path) as image:
                batch.append(run(image.convert("RGB")))
            if len(batch) == BATCH:
                yield torch.stack(batch)
                batch = []

    return batches()


def _dataset(files):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(files).repeat()


# The worker processes: each measures one task per input line.


def work(contender, files):
    """Reads JSON lines with an ``operation`` or a ``policy``; prints the time of one round."""
    if contender != "torchvision":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    pipelines = {
        "ours": ours,
        "official": official,
        "keras_cv": keras_cv,
        "torchvision": torchvision,
    }
    results, ready = os.fdopen(os.dup(1), "w"), {}
    os.dup2(2, 1)  # keeps the output of libraries apart from the results
    for line in sys.stdin:
        task = json.loads(line)
        if line not in ready:
            if "operation" in task:
                ready[line] = operation_of(contender, task["operation"], files)
            else:
                ready[line] = pipelines[contender](files, task["policy"])
        for _ in range(_UNTIMED):
            next(ready[line])
        began = time.process_time(), time.perf_counter()
        for _ in range(_TIMED):
            next(ready[line])
        seconds = time.process_time() - began[0], time.perf_counter() - began[1]
        images = _TIMED * BATCH
        print(json.dumps([s / images for s in seconds]), file=results, flush=True)


class Workers:
    """The contenders' processes, all on one core; each waits for its turn."""

    def __init__(self, contenders, pythons, photos, core):
        self.processes = {}
        for name in contenders:
            self.processes[name] = subprocess.Popen(
                [
                    pythons[name],
                    os.path.abspath(__file__),
                    f"--worker={name}",
                    f"--photos={photos}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )

    def measure(self, name, **task):
        """(processor seconds, wall-clock seconds) per image of one round."""
        process = self.processes[name]
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        result = process.stdout.readline()
        if not result:
            raise RuntimeError(f"the process of {name} ended with status {process.wait()}")
        return json.loads(result)

    def close(self):
        """Ends the processes."""
        for process in self.processes.values():
            process.stdin.close()
            process.wait()


def compare(workers, names, rounds, tasks):
    """{name: [[(processor seconds, seconds) per image, ...] of each task]}, alternating."""
    times = {name: [[] for _ in tasks] for name in names}
    for i in range(rounds):
        for name in list(names) if i % 2 else reversed(list(names)):
            for task, seconds in zip(tasks, times[name]):
                seconds.append(workers.measure(name, **task))
    return times


def _median(times, which=0):
    return statistics.median(t[which] for t in times)


def _print_pipelines(workers, names, rounds):
    times = compare(workers, names, rounds, [{"policy": True}, {"policy": False}])
    full, bare = ({name: seconds[i] for name, seconds in times.items()} for i in (0, 1))
    print(
        "| pipeline | images/s | lowest and highest round | by wall clock "
        "| ms per image | of which RandAugment | speed-up of ours |"
    )
    print("|---|---|---|---|---|---|---|")
    mine = _median(full["ours"])
    for name in names:
        rates = sorted(1 / cpu for cpu, _ in full[name])
        took, without = _median(full[name]), _median(bare[name])
        print(
            f"| {name} | {1 / took:.0f} | {rates[0]:.0f}, {rates[-1]:.0f} | "
            f"{1 / _median(full[name], 1):.0f} | {1000 * took:.2f} | "
            f"{1000 * (took - without):.2f} | {took / mine:.2f} times |",
            flush=True,
        )
    fastest = min((_median(t) for name, t in full.items() if name != "ours"), default=mine)
    print(f"\nOurs compared with the fastest of the others: {fastest / mine:.2f} (target: 1.5).")


def _print_operations(workers, names, rounds):
    print("| operation | ours, us | official, us | official / ours |")
    print("|---|---|---|---|")
    sums = dict.fromkeys(names, 0.0)
    for operation in ARGUMENTS:
        times = compare(workers, names, rounds, [{"operation": operation}, {"operation": None}])
        took = {n: 1e6 * (_median(one) - _median(empty)) for n, (one, empty) in times.items()}
        took = {n: max(t, 1.0) for n, t in took.items()}
        sums = {n: sums[n] + took[n] for n in names}
        print(
            f"| {operation} | {took['ours']:.0f} | {took['official']:.0f} | "
            f"{took['official'] / took['ours']:.1f} |",
            flush=True,
        )
    mean = {n: s / len(ARGUMENTS) for n, s in sums.items()}
    print(
        f"| mean | {mean['ours']:.0f} | {mean['official']:.0f} | "
        f"{mean['official'] / mean['ours']:.1f} |"
    )


def _processor():
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores, load {os.getloadavg()[0]:.1f}"


def _commit():
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "-s") else "")


def main(argv=None):
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", required=True, help="folder of JPEG files, e.g. 200")
    parser.add_argument("--legacy-python", help="Python of an environment with tensorflow-addons")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=7, help="rounds per pipeline")
    parser.add_argument("--core", type=int, default=0, help="core that all processes share")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    files = files_of(options.photos)
    if not files:
        parser.error(f"{options.photos} has no JPEG files")
    if options.worker:
        work(options.worker, files)
        return
    names = [n for n in options.contenders if n != "official" or options.legacy_python]
    pythons = dict.fromkeys(names, sys.executable)
    pythons["official"] = options.legacy_python
    print(f"{datetime.date.today()}, commit {_commit()}, {_processor()}")
    print(f"\n    python benchmarks/input_pipeline.py {' '.join(argv or sys.argv[1:])}\n")
    workers = Workers(names, pythons, options.photos, options.core)
    try:
        _print_pipelines(workers, names, options.rounds)
        if {"ours", "official"} <= set(names):
            print()
            _print_operations(workers, ("ours", "official"), options.rounds)
    finally:
        workers.close()


if __name__ == "__main__":
    main()
