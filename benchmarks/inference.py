"""Latency and throughput of inference on a CPU: what runs the same network fastest.

Every contender is a separate process on the same cores, with the same network and image size. They
take turns, so that other programs slow all of them alike; the first turn of each is not counted.
Prints the tables of docs/results/inference.md and adds every cell to a JSON file; cells that it has
are not measured again:

    python benchmarks/inference.py --folder=inference-files --results=docs/results/inference.json
    python benchmarks/inference.py --models efficientnet-b0 --batches 1 --threads 1 --rounds=3

The contenders run on the first of the cores that this process may use (taskset).

OpenVINO needs a separate Python where its requirements conflict: --openvino_python=PATH (default:
left out). Images are uint8 in [0, 255]; normalization is part of the network everywhere but in
timm, whose images are already normalized. A .tflite takes one image: of a batch, each thread takes
images in turn. Every other contender gets the whole batch. The ratios are those of processor time,
which other programs change less than wall-clock time; it counts all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from inference_files import NETWORKS, path_of, random_images, write_files

FIRST = "tflite int8"  # ratios are relative to it
LEAST_SECONDS = 0.1  # of a turn


def keras_predict(network, folder, threads):
    """``model.predict`` of Keras."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(path_of(network, folder, ".keras"), compile=False)
    return lambda images: model.predict(images, batch_size=len(images), verbose=0)


def timm(network, folder, threads, compiled=False):
    """The network of timm in inference mode, channels last."""
    from tools.foreign import import_torch_projects

    torch, _, timm_package = import_torch_projects()
    torch.set_num_threads(threads)
    model = timm_package.create_model(network.timm, pretrained=False).eval()
    model = model.to(memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model)
    inputs = {}

    def run(images):
        if len(images) not in inputs:
            rows = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
            inputs[len(images)] = rows.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return model(inputs[len(images)])

    return run


def onnx_runtime(network, folder, threads, ending=".onnx"):
    """ONNX Runtime on the CPU."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        path_of(network, folder, ending), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.astype(np.float32)})


def openvino(network, folder, threads):
    """OpenVINO on the CPU, with the ONNX file, in float32."""
    import numpy as np
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path_of(network, folder, ".onnx"))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    requests = {}

    def run(images):
        if len(images) not in requests:  # shapes that are known are faster
            model.reshape({model.input(0): list(images.shape)})
            requests[len(images)] = core.compile_model(model, "CPU", settings)
        return requests[len(images)]([images.astype(np.float32)])

    return run


def tflite_file(network, folder, threads, ending=".tflite"):
    """LiteRT with XNNPACK: one image on all threads, or a batch image by image on each thread."""
    from keras_effnet.litert import runner

    with open(path_of(network, folder, ending), "rb") as file:
        content = file.read()
    alone = runner.open_interpreter(content, num_threads=threads)
    together = [runner.open_interpreter(content) for _ in range(threads)]

    def run(images):
        interpreters = [alone] if len(images) == 1 else together
        for values in runner.run_interpreters(interpreters, images):
            list(values.values())

    return run


CONTENDERS = {
    FIRST: lambda *a: tflite_file(*a, ending="-int8.tflite"),
    "tflite float32": tflite_file,
    "ONNX Runtime int8": lambda *a: onnx_runtime(*a, ending="-int8.onnx"),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "keras predict": keras_predict,
    "timm": timm,
    "timm, compiled": lambda *a: timm(*a, compiled=True),
}


def serve(options):
    """Runs one contender: a line with a batch size on stdin is a turn; prints its seconds per
    image, and the processor's.
    """
    cores = sorted(os.sched_getaffinity(0))[: options.threads[0]]
    os.sched_setaffinity(0, cores)  # before anything counts them
    network = NETWORKS[options.models[0]]
    run = CONTENDERS[options.one](network, options.folder, options.threads[0])
    known = {}
    for line in sys.stdin:
        batch = int(line)
        if batch not in known:
            known[batch] = random_images(batch, network.size)
            run(known[batch])  # compiles
        images, runs = known[batch], 0
        began, used = time.perf_counter(), time.process_time()
        while not runs or time.perf_counter() - began < LEAST_SECONDS:
            run(images)
            runs += 1
        seconds = time.perf_counter() - began, time.process_time() - used
        print(json.dumps([each / (runs * batch) for each in seconds]), flush=True)


def compare(network, threads, batches, options):
    """{batch: {contender: [(seconds, processor seconds) per image, ...]}}, an entry per round."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    names = [n for n in options.contenders if n != "OpenVINO" or options.openvino_python]
    running = {}
    try:
        for name in names:
            python = options.openvino_python if name == "OpenVINO" else sys.executable
            command = [python, __file__, f"--one={name}", f"--folder={options.folder}"]
            command += ["--models", network.name, "--threads", str(threads)]
            running[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            _turn(running[name], batches[0])  # one after the other: starting takes all cores
        return {
            batch: _rounds(running, batch, options.rounds if batch == 1 else options.batch_rounds)
            for batch in batches
        }
    finally:
        for process in running.values():
            process.kill()


def _rounds(running, batch, rounds):
    times = {name: [] for name in running}
    for number in range(rounds + 1):
        for name, process in running.items():
            seconds = _turn(process, batch)
            if number:  # the first round is not counted
                times[name].append(seconds)
    return times


def _turn(process, batch):
    process.stdin.write(f"{batch}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args[2]} ended with status {process.wait()}")
    return json.loads(line)


def table(cells):
    """The Markdown table of one network and number of threads, from the cells of the JSON file."""
    cells = sorted(cells, key=lambda cell: cell["batch"])
    names = [name for name in CONTENDERS if any(name in cell["times"] for cell in cells)]
    head = [
        f"batch {cell['batch']}: processor ms per image | this / {FIRST} | wall-clock ms, shortest"
        for cell in cells
    ]
    lines = [f"| | {' | '.join(head)} |", "|---" * (1 + 3 * len(cells)) + "|"]
    for name in names:
        row = [name]
        for times in (cell["times"] for cell in cells):
            used = statistics.median(cpu for _, cpu in times[name])
            shortest = min(wall for wall, _ in times[name])
            row += [f"{1e3 * used:.1f}", f"{ratio(times, name):.2f}", f"{1e3 * shortest:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def ratio(times, name):
    """The median over the rounds of a contender's processor time divided by that of ``FIRST``."""
    rounds = zip(times[name], times[FIRST])
    return statistics.median(mine[1] / first[1] for mine, first in rounds)


def parsed(argv=None):
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds with batch 1")
    parser.add_argument("--batch_rounds", type=int, default=5, help="with larger batches")
    parser.add_argument("--folder", default="inference-files", help="of the files that are run")
    parser.add_argument("--results", default="inference.json", help="JSON file to extend")
    parser.add_argument("--openvino_python", help="a Python that has OpenVINO")
    parser.add_argument("--one", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    """Measures the missing cells and prints one table per network and number of threads."""
    options = parsed(argv)
    if options.one:
        serve(options)
        return
    cells = []
    if os.path.exists(options.results):
        with open(options.results, encoding="utf-8") as file:
            cells = json.load(file)
    for network in (NETWORKS[name] for name in options.models):
        write_files(network, options.folder)
        for threads in options.threads:
            key = {"model": network.name, "threads": threads}
            same = [cell for cell in cells if key.items() <= cell.items()]
            missing = [b for b in options.batches if b not in {cell["batch"] for cell in same}]
            if missing:
                measured = compare(network, threads, missing, options)
                same += [{**key, "batch": b, "times": t} for b, t in measured.items()]
                cells = [cell for cell in cells if not key.items() <= cell.items()] + same
                with open(options.results, "w", encoding="utf-8") as file:
                    json.dump(cells, file, indent=1)
            print(f"{network.name}, {network.size} px, {threads} thread(s)\n\n{table(same)}\n")


if __name__ == "__main__":
    main()
