"""Time to import the package, to run its quick commands, and to build each variant.

Imports and commands are timed in new processes, alternating between the statements. Builds are
timed in one process, alternating between our builder and that of keras.applications (the order
changes every round), with random weights and 1000 classes. The medians of processor time are
compared, which other programs affect less than wall-clock time. Targets: the package adds at most
0.1 s to Keras and does not import TensorFlow; no variant takes longer than with keras.applications;
XL takes no longer than their V2-L multiplied by 100 / 79 blocks. Prints the tables of
docs/results/start-up.md, in about ten minutes on two cores:

    python benchmarks/start_up.py
    python benchmarks/start_up.py --models efficientnet-b0 efficientnetv2-s --rounds=9
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras_effnet

# ours: theirs. Everything that both have; XL is compared with V2-L by blocks.
SHARED = {
    **{f"efficientnet-b{i}": f"EfficientNetB{i}" for i in range(8)},
    **{f"efficientnetv2-b{i}": f"EfficientNetV2B{i}" for i in range(4)},
    **{f"efficientnetv2-{s}": f"EfficientNetV2{s.upper()}" for s in "sml"},
}
XL, ITS_REFERENCE = "efficientnetv2-xl", "efficientnetv2-l"


def _command(package, *words):
    return (
        "import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    from {package}.cli import main\n"
        f"    main({list(words)})"
    )


_IMPORTS = {  # statement: (untimed setup, timed code)
    "import keras": ("", "import keras"),
    "import keras_effnet, keras": ("", "import keras_effnet, keras"),
    "import keras_effnet": ("", "import keras_effnet"),
    "import keras_effnet, after keras": ("import keras", "import keras_effnet"),
    "effnet --help": ("", _command("keras_effnet", "--help")),
    "effnet models": ("", _command("keras_effnet", "models")),
    "effnet plan efficientnet-b0": ("", _command("keras_effnet", "plan", "efficientnet-b0")),
    "effnet-train --help": ("", _command("tpu_train", "--help")),
    "effnet-tflite --help": ("", _command("tflite", "--help")),
}
_TIMED = """
import sys, time
{before}
began = time.perf_counter(), time.process_time()
{timed}
seconds = time.perf_counter() - began[0], time.process_time() - began[1]
print(*seconds, "tensorflow" in sys.modules, "keras" in sys.modules)
"""


def time_imports(rounds):
    """{statement: (median wall seconds, median processor seconds, whether TensorFlow is loaded,
    whether Keras is loaded)}, alternating.
    """
    times = {statement: [] for statement in _IMPORTS}
    for _ in range(rounds + 1):  # the first fills the disk cache and is not counted
        for statement, (before, timed) in _IMPORTS.items():
            result = subprocess.run(
                [sys.executable, "-c", _TIMED.format(before=before, timed=timed)],
                capture_output=True,
                text=True,
                check=True,
            )
            wall, cpu, *loaded = result.stdout.split()
            times[statement].append((float(wall), float(cpu), *(m == "True" for m in loaded)))
    return {
        statement: (
            statistics.median(r[0] for r in runs[1:]),
            statistics.median(r[1] for r in runs[1:]),
            runs[-1][2],
            runs[-1][3],
        )
        for statement, runs in times.items()
    }


def time_builds(builders, rounds):
    """{name: (median processor seconds, median wall seconds)} of functions that build a model,
    alternating.
    """
    import keras

    times = {name: [] for name in builders}
    for i in range(rounds + 1):  # the first is not counted: each shape's first kernel is slower
        for name in list(builders) if i % 2 else reversed(list(builders)):
            keras.backend.clear_session()
            gc.collect()
            began = time.process_time(), time.perf_counter()
            model = builders[name]()
            seconds = time.process_time() - began[0], time.perf_counter() - began[1]
            del model
            if i:
                times[name].append(seconds)
    return {
        name: tuple(statistics.median(run[j] for run in runs) for j in (0, 1))
        for name, runs in times.items()
    }


def compare(name, rounds):
    """(ours, theirs), each (processor seconds, wall seconds); theirs of XL is V2-L's, by blocks."""
    import keras

    reference = ITS_REFERENCE if name == XL else name
    theirs = getattr(keras.applications, SHARED[reference])
    result = time_builds(
        {
            "ours": lambda: keras_effnet.create_model(name),
            "theirs": lambda: theirs(weights=None),
        },
        rounds,
    )
    share = _blocks(name) / _blocks(reference)
    return result["ours"], tuple(seconds * share for seconds in result["theirs"])


def _blocks(name):
    return len(keras_effnet.plan(name).blocks)


def _print_imports(rounds):
    print("| | wall, s | processor, s | loads TensorFlow | loads Keras |")
    print("|---|---|---|---|---|")
    for statement, (wall, cpu, tensorflow, keras) in time_imports(rounds).items():
        loads = " | ".join("yes" if loaded else "no" for loaded in (tensorflow, keras))
        print(f"| `{statement}` | {wall:.3f} | {cpu:.3f} | {loads} |", flush=True)


def _print_builds(names, rounds):
    print("| variant | blocks | ours, s | theirs, s | ours / theirs | ratio by wall clock |")
    print("|---|---|---|---|---|---|")
    for name in names:
        if name in SHARED or name == XL:
            ours, theirs = compare(name, rounds)
            result = (
                f"{theirs[0]:.2f} | {ours[0] / theirs[0]:.2f} | {ours[1] / theirs[1]:.2f}"
                f"{', V2-L by blocks' if name == XL else ''}"
            )
        else:
            builders = {"ours": lambda n=name: keras_effnet.create_model(n)}
            ours, result = time_builds(builders, rounds)["ours"], "- | - | -"
        print(f"| {name} | {_blocks(name)} | {ours[0]:.2f} | {result} |", flush=True)


def main(argv=None):
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(keras_effnet.VARIANTS))
    parser.add_argument("--rounds", type=int, default=5, help="builds of each, after one warm-up")
    parser.add_argument("--imports", type=int, default=9, help="processes per statement; 0: skip")
    options = parser.parse_args(argv)
    if options.imports:
        _print_imports(options.imports)
        print()
    if options.rounds:
        _print_builds(options.models, options.rounds)


if __name__ == "__main__":
    main()
