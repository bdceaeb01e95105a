"""Which operations of a .tflite are faster with a second thread: each is run alone, on its own
inputs, with one and with two threads in turns.

Prints, for each kind of operation, the sum of the shortest times. The shortest of many runs depends
least on other programs. Also prints the whole network in the same way, and how much processor time
each thread takes, per image. Part of docs/results/inference.md:

    python benchmarks/op_threads.py inference-files/efficientnet-b0.tflite
"""

from __future__ import annotations

import argparse
import collections
import os
import time

import numpy as np
from inference_files import random_images

from keras_effnet.litert import ops, runner, runtime
from tflite.flatbuffer import rewrite
from tflite.flatbuffer.sections import Sections

THREADS = (1, 2)


def shortest(tflite_model, inputs, runs):
    """[the shortest time in ms of a model with each number of threads], in turns."""
    interpreters = [runtime.interpreter(tflite_model, num_threads=n) for n in THREADS]
    for interpreter in interpreters:
        for row in interpreter.get_input_details():
            interpreter.set_tensor(row["index"], inputs[row["index"]].astype(row["dtype"]))
        interpreter.invoke()
    best = [np.inf] * len(interpreters)
    for _ in range(runs):
        for i, interpreter in enumerate(interpreters):
            began = time.perf_counter()
            interpreter.invoke()
            best[i] = min(best[i], 1e3 * (time.perf_counter() - began))
    return best


def kind_of(op, shape):
    """The kind of an operation: its name, and the size of a convolution's output."""
    if op.name in ("CONV_2D", "FULLY_CONNECTED"):
        return f"{op.name}, 1 pixel" if shape[1:3] == (1, 1) or len(shape) < 4 else op.name
    return op.name


def by_kind(content, image, runs):
    """{kind: [number of operations, ms with one thread, ms with two]}."""
    sections, rows = Sections(content), ops.read_ops(content)
    shapes = runner.tensor_shapes(content)
    values, sums = sections.first(image[None]), collections.defaultdict(lambda: [0, 0.0, 0.0])
    for op in rows:
        position = sections.position(op.output)
        (index,), values = sections.run(content, values, position, lambda tensors, i: i)
        inputs = values.images[0]
        read = [i for i in inputs if i in sections.inputs(position)]
        alone = rewrite.section(content, position, position, inputs=read, outputs=[index])
        times = shortest(alone, inputs, runs)
        total = sums[kind_of(op, shapes[index])]
        total[0] += 1
        total[1] += times[0]
        total[2] += times[1]
    return dict(sums)


def thread_times(content, image, threads, runs):
    """Processor time in ms per image of each thread of the process that works, longest first."""
    interpreter = runtime.interpreter(content, num_threads=threads)
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], image[None].astype(details["dtype"]))
    interpreter.invoke()
    before = _thread_clocks()
    for _ in range(runs):
        interpreter.invoke()
    spent = [after - before.get(task, 0) for task, after in _thread_clocks().items()]
    return sorted((ms / runs for ms in spent if ms / runs > 0.01), reverse=True)


def _thread_clocks():
    clocks = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/schedstat", encoding="ascii") as file:
            clocks[task] = int(file.read().split()[0]) / 1e6
    return clocks


def main(argv=None):
    """Prints the table of one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help=".tflite with one image as input")
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args(argv)
    with open(options.file, "rb") as file:
        content = file.read()
    height, _, _ = runtime.input_shape(content)
    image = random_images(1, height)[0]
    print("| operations | number | 1 thread, ms | 2 threads, ms | times as fast |")
    print("|---|---|---|---|---|")
    sums = by_kind(content, image, options.runs)
    for kind, (count, one, two) in sorted(sums.items(), key=lambda row: -row[1][1]):
        print(f"| {kind} | {count} | {one:.2f} | {two:.2f} | {one / two:.2f} |")
    total = [sum(row[i] for row in sums.values()) for i in (0, 1, 2)]
    count, one, two = total
    print(f"| all, one by one | {count} | {one:.2f} | {two:.2f} | {one / two:.2f} |")
    one, two = shortest(content, collections.defaultdict(lambda: image[None]), options.runs)
    print(f"| the whole network | | {one:.2f} | {two:.2f} | {one / two:.2f} |\n")
    for threads in THREADS:
        times = ", ".join(f"{ms:.2f}" for ms in thread_times(content, image, threads, options.runs))
        print(f"{threads} thread(s): processor time per image and thread {times} ms")


if __name__ == "__main__":
    main()
