"""Parity table: every source and variant, converted and compared with the source's network.

Networks get random, perturbed weights (tools/foreign.py), are saved in their project's format and
converted by ``keras_effnet.porting.port``. Both networks then run on the same images:

- keras.applications and the PyTorch projects: the largest difference after every block, relative to
  the largest value there, and the difference of the logits.
- qubvel, leondgarse: the files are written from one of our networks, in their names; the outputs
  before and after are compared.
- TensorFlow: checkpoints are written in the official names, with EMA weights, slots and steps;
  every weight of the converted model is compared.

Writes docs/results/parity.md after every row. Takes 45 minutes on two cores, and 14 GB for L2:

    python tools/parity.py --out=docs/results/parity.md
    python tools/parity.py --only='timm:*lite*'
"""

import argparse
import fnmatch
import gc
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.porting import PROJECTS, keras_h5, port
from keras_effnet.pretrained.layer_names import weighted_layers
from keras_effnet.pretrained.tf_checkpoint import NAMES

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import foreign  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "tf_checkpoint_variables.txt"
# timm has weights for these networks; it defines more.
_NATIVE = (*(f"efficientnet_b{i}" for i in range(6)), "efficientnet_lite0")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    source: str
    name: str  # the source's
    variant: str  # ours
    mapped: int
    total: int
    blocks: float  # the largest relative difference at any place; NaN where only one is compared
    place: str
    output: float  # of the logits, the probabilities or the weights
    seconds: float


def cases():
    """[(project, the project's network name)], small networks first."""
    sized = []
    for source, row in PROJECTS.items():
        for name, variant in row.variants.items():
            native = source == "timm" and not name.startswith("tf_")
            if native and name not in _NATIVE:
                continue
            sized.append((cost(variant.name).parameters, source, name))
    return [(source, name) for _, source, name in sorted(sized, key=lambda case: case[0])]


def measure(source, name, *, image_size=64):
    """The :class:`Row` of one conversion."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        row = _MEASURES[source](source, name, image_size, pathlib.Path(folder))
    return replace(row, seconds=time.perf_counter() - start)


def _of_torch(source, name, image_size, folder):
    path = folder / "model.safetensors"
    foreign.save_torch(foreign.torch_network(source, name), path)
    return _row(port(path, name, source=source, image_size=image_size)[1], source, name)


def _of_applications(source, name, image_size, folder):
    from keras_effnet.constructors import create_model

    # in keras.applications' own tests' format; their released .h5 are tests/keras_effnet's business
    ours = create_model(name, input_shape=(image_size, image_size, 3))
    foreign.tame(ours)
    path = folder / "model.h5"
    arrays = {layer.name: layer.get_weights() for layer in ours.layers if layer.weights}
    foreign.save_h5(path, arrays)
    return _row(port(path, name, source=source, image_size=image_size)[1], source, name)


def _of_legacy(source, name, image_size, folder):
    from keras_effnet.constructors import create_model

    before = create_model(name, input_shape=(image_size, image_size, 3))
    foreign.tame(before)
    names = {"qubvel": keras_h5.QUBVEL, "leondgarse": keras_h5.LEONDGARSE}[source]
    path = folder / "model.h5"
    arrays = {
        layer.source_name: before.get_layer(layer.name).get_weights()
        for layer in weighted_layers(plan(name), names)
    }
    foreign.save_h5(path, arrays, whole_model=source == "qubvel")
    after, report = port(path, name, source=source, image_size=image_size)
    images = foreign.random_images(image_size)
    want, have = (np.array(model(images)) for model in (before, after))
    return replace(_row(report, source, name), output=_relative(have, want))


def _of_checkpoint(source, name, image_size, folder):
    resolved = plan(name)
    shapes = foreign.read_golden(GOLDEN).get(name) or checkpoint_shapes(name)
    prefix = folder / "model.ckpt"
    values = foreign.save_checkpoint(prefix, name, shapes, slots=name.endswith("b0"))
    model, report = port(prefix, name, source=source, image_size=image_size)
    have = [
        w for p in weighted_layers(resolved, NAMES) for w in model.get_layer(p.name).get_weights()
    ]
    worst = max(_relative(a, values[v]) for a, v in zip(have, _variables(resolved)))
    return replace(_row(report, source, name), output=worst)


_MEASURES = {
    "keras-applications": _of_applications,
    "qubvel": _of_legacy,
    "leondgarse": _of_legacy,
    "tensorflow": _of_checkpoint,
    "timm": _of_torch,
    "torchvision": _of_torch,
    "lukemelas": _of_torch,
    "efficientnet-lite-pytorch": _of_torch,
}


def _variables(resolved):
    """Official names of a plan's variables, in the order of our layers' weights."""
    ends = {
        "conv": ("kernel",),
        "biased conv": ("kernel", "bias"),
        "depthwise": ("depthwise_kernel",),
        "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance"),
        "dense": ("kernel", "bias"),
    }
    return [
        f"{p.source_name}/{end}" for p in weighted_layers(resolved, NAMES) for end in ends[p.kind]
    ]


def checkpoint_shapes(name):
    """{variable: shape} for a network whose official list is not among the goldens."""
    from keras_effnet.constructors import create_model

    model = create_model(name, input_shape=(32, 32, 3))
    resolved = plan(name)
    shapes = [
        w.shape for p in weighted_layers(resolved, NAMES) for w in model.get_layer(p.name).weights
    ]
    return {v: tuple(s) for v, s in zip(_variables(resolved), shapes)}


def _relative(have, want):
    return float(np.abs(have - want).max() / np.abs(want).max())


def _row(report, source, name):
    worst = report.worst
    logits = [d.relative for d in report.differences if d.place == "logits"]
    return Row(
        source=source,
        name=name,
        variant=report.model,
        mapped=report.mapped,
        total=report.total,
        blocks=worst.relative if worst else float("nan"),
        place=worst.place if worst else "",
        output=logits[0] if logits else float("nan"),
        seconds=0.0,
    )


_COMPARED = {  # which output is compared, and how the file was written
    "keras-applications": "logits. Files: legacy `.h5` of its layout",
    "qubvel": "probabilities before and after. Files: whole `.h5` models, names by our table",
    "leondgarse": "probabilities before and after. Files: `.h5`, names by our table",
    "tensorflow": (
        "weights. Checkpoints: the official variables of efficientnet-b0, b2,\n"
        "efficientnetv2-b0, s, xl (tests/golden); the others by the same scheme"
    ),
    **dict.fromkeys(
        ("timm", "torchvision", "lukemelas", "efficientnet-lite-pytorch"),
        "logits. Files: state dicts of the source's networks as `.safetensors`",
    ),
}


def table(rows, image_size):
    """The page, as Markdown."""
    lines = [
        "# Parity with the sources",
        "",
        "Every source's files, converted by `keras_effnet.porting` and compared with the source's",
        "network: the largest difference after any block, relative to the largest value there, and",
        f"the difference of the output, for two random images of {image_size} px. All weights are",
        "random and perturbed, including the batch-norm statistics.",
        "",
        *_provenance(image_size),
        "",
    ]
    for source in PROJECTS:
        mine = [row for row in rows if row.source == source]
        if not mine:
            continue
        worst = max(row.output for row in mine)
        lines += [
            f"## {source}",
            "",
            f"Largest difference of the outputs: **{worst:.1e}**.",
            f"Compared: {_COMPARED[source]}.",
            "",
            "| network in the source | variant | arrays mapped "
            "| after any block | block | output |",
            "|---|---|---|---|---|---|",
        ]
        for row in sorted(mine, key=lambda r: list(PROJECTS[source].variants).index(r.name)):
            blocks = "-" if np.isnan(row.blocks) else f"{row.blocks:.1e}"
            lines.append(
                f"| {row.name} | {row.variant} | {row.mapped} of {row.total} | {blocks} | "
                f"{row.place or '-'} | {row.output:.1e} |"
            )
        lines.append("")
    return "\n".join(lines)


def _provenance(image_size):
    installed = {d.name.replace("-", "_"): d.version for d in importlib.metadata.distributions()}
    packages = (
        *("keras", "tensorflow", "torch", "torchvision", "timm"),
        *("efficientnet_pytorch", "efficientnet_lite_pytorch"),
    )
    versions = ", ".join(f"{p} {installed[p]}" for p in packages if p in installed)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return [
        f"{time.strftime('%Y-%m-%d')}, on top of commit {commit}, {os.cpu_count()} CPU cores,",
        f"{versions}.",
        "",
        f"    python tools/parity.py --image-size={image_size} --out=docs/results/parity.md",
    ]


def main(argv=None):
    """Measures every case and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="Markdown file to write (default: stdout)")
    parser.add_argument("--only", default="*", help="shell pattern of source:network")
    parser.add_argument("--image-size", type=int, default=64, help="image side in pixels")
    options = parser.parse_args(argv)
    import keras

    rows = []
    chosen = [c for c in cases() if fnmatch.fnmatchcase(":".join(c), options.only)]
    for i, (source, name) in enumerate(chosen, start=1):
        rows.append(measure(source, name, image_size=options.image_size))
        r = rows[-1]
        print(
            f"{i}/{len(chosen)} {source}:{name} {r.mapped}/{r.total} weights, blocks "
            f"{r.blocks:.1e} {r.place}, output {r.output:.1e}, {r.seconds:.0f} s",
            flush=True,
        )
        keras.backend.clear_session()
        gc.collect()
        if options.out:
            part = pathlib.Path(options.out + ".part")
            part.write_text(table(rows, options.image_size), encoding="utf-8")
            part.replace(options.out)
    if not options.out:
        print(table(rows, options.image_size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
