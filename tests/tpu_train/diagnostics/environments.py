"""Environments for the tests: sound ones, and a way to change one thing."""

import dataclasses
import json

from tpu_train.diagnostics.checks import examine
from tpu_train.diagnostics.environment import Environment, Imported, Package

NEWEST = {
    "tensorflow": Package("2.21.0", ("keras>=3.12.0", "numpy>=1.26.0"), ">=3.10"),
    "keras": Package("3.15.1", ("numpy",), ">=3.11"),
    "keras-cv": Package("0.9.0"),
    "numpy": Package("2.4.6"),
    "tensorboard": Package("2.21.0"),
}
LEGACY = {
    **NEWEST,
    "tensorflow": Package("2.15.1", ("numpy (<2.0.0,>=1.23.5)", "keras (<2.16,>=2.15.0)"), ">=3.9"),
    "keras": Package("2.15.0"),
    "numpy": Package("1.26.4"),
}
FOR_TPU = {
    **NEWEST,
    "tensorflow-tpu": Package(
        "2.19.1", ("keras>=3.5.0", "numpy<2.2.0,>=1.26.0", "libtpu==0.0.10"), ">=3.9"
    ),
    "numpy": Package("2.1.3"),
    "libtpu": Package("0.0.10"),
}
del FOR_TPU["tensorflow"]
GOOD = Environment(
    packages=NEWEST, imported=Imported(tensorflow="2.21.0", seconds=4.0, tpu_kernels=False)
)
ON_TPU = dataclasses.replace(
    GOOD,
    packages=FOR_TPU,
    tpu_devices=("/dev/accel0",),
    imported=Imported(tensorflow="2.19.1", seconds=4.0, tpu_kernels=True),
)
TPU_LINE = (
    'pip install "tensorflow-tpu==2.19.1" '
    "--find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html"
)


def without(packages, name):
    return {k: v for k, v in packages.items() if k != name}


def findings_of(check, environment=GOOD, **changes):
    """The findings of one check, in an environment with some fields replaced."""
    environment = dataclasses.replace(environment, **changes)
    return [f for f in examine(environment) if f.check == check]


def finding_of(check, environment=GOOD, **changes):
    (finding,) = findings_of(check, environment, **changes)
    return finding


def tf_config(workers=("a:1", "b:2"), task=("worker", 0), **more):
    return json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": task[0], "index": task[1]}, **more}
    )
