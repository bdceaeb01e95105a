"""Probe of the machine and its packages, without importing TensorFlow in this process.

TensorFlow is imported last, in a child process that runs this file, so that an import failure is
reported instead of raised. :mod:`tpu_train.diagnostics.checks` evaluates the environment.
"""

from __future__ import annotations

import glob
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from packaging.utils import canonicalize_name

BUILDS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly")
TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
LOCAL_TPU = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")  # set on a TPU VM
REMOTE_TPU = ("COLAB_TPU_ADDR", "TPU_NAME")
VARIABLES = (  # the environment variables that the checks read
    *LOCAL_TPU,
    *REMOTE_TPU,
    *("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"),
    *("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", "TF_CONFIG", "CUDA_VISIBLE_DEVICES"),
    *("TF_XLA_FLAGS", "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS"),
)
IMPORT_TIMEOUT = 240  # seconds; TensorFlow imports slowly from a cold network disk


@dataclass(frozen=True)
class Package:
    """Metadata of an installed distribution."""

    version: str
    requires: tuple = ()
    requires_python: str = ""


@dataclass(frozen=True)
class Folder:
    """The work directory, or the place where it would be created."""

    path: str
    error: str = ""  # when writing there
    free_bytes: int | None = None


@dataclass(frozen=True)
class Imported:
    """Result of importing TensorFlow in a child process; after an error, later fields are unset."""

    error: str = ""
    doing: str = ""  # the step that was running when it ended, e.g. "import keras"
    stderr: str = ""  # its last lines
    seconds: float = 0.0
    tensorflow: str = ""
    tpu_kernels: bool | None = None  # whether this build supports an attached TPU
    cuda_build: bool = False
    gpus: tuple = ()
    keras_cv: str = ""  # its import error
    workdir: str = ""  # the error when writing to a remote work directory


@dataclass(frozen=True)
class Environment:
    """Everything that the checks read."""

    python: tuple = (3, 11, 0)
    system: str = "Linux"
    machine: str = "x86_64"
    packages: dict = field(default_factory=dict)  # canonical name -> Package
    variables: dict = field(default_factory=dict)  # the VARIABLES that are set
    keras_json_backend: str = ""  # from ~/.keras/keras.json
    tpu_devices: tuple = ()
    gpus: tuple = ()  # names from the driver
    cores: float = 8.0  # available to this process
    memory_bytes: int | None = None
    port_error: str = ""  # when listening at this worker's port
    folder: Folder | None = None
    imported: Imported | None = None  # None where there is no TensorFlow
    device: str = "auto"


def probe_environment(workdir: str = "", device: str = "auto") -> Environment:
    """The :class:`Environment` of this process; takes as long as importing TensorFlow."""
    variables = {
        name: os.environ[name]
        for name in VARIABLES
        if os.environ.get(name) or (name in os.environ and name == "CUDA_VISIBLE_DEVICES")
    }
    packages = _packages()
    return Environment(
        python=tuple(sys.version_info[:3]),
        system=platform.system(),
        machine=platform.machine(),
        packages=packages,
        variables=variables,
        keras_json_backend=_keras_json_backend(),
        tpu_devices=tuple(sorted(path for p in TPU_DEVICES for path in glob.glob(p))),
        gpus=_gpus(),
        cores=_cores(),
        memory_bytes=_memory(),
        port_error=_port_error(variables.get("TF_CONFIG", "")),
        folder=_folder(workdir) if workdir else None,
        imported=_import(workdir) if any(b in packages for b in BUILDS) else None,
        device=device,
    )


def _packages():
    packages = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and canonicalize_name(name) not in packages:  # the first on the path is imported
            packages[canonicalize_name(name)] = Package(
                distribution.version,
                tuple(distribution.requires or ()),
                distribution.metadata.get("Requires-Python") or "",
            )
    return packages


def _keras_json_backend():
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file).get("backend") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _gpus():
    try:
        output = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        names = [line.split(" (UUID")[0].split(": ", 1)[-1] for line in output.splitlines()]
        return tuple(name for name in names if name)
    except (OSError, subprocess.SubprocessError):
        return tuple(p for p in sorted(glob.glob("/dev/nvidia[0-9]*")))


def _cores():
    """Cores available to this process: its affinity, limited by a container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    return round(cores, 1)


def _memory():
    """Bytes of the machine's memory, or of the container's limit; None if unknown."""
    total = next((s for s in _read("/proc/meminfo").splitlines() if "MemTotal" in s), "")
    sizes = [int(word) * 1024 for word in total.split() if word.isdigit()]
    limit = _read("/sys/fs/cgroup/memory.max")
    sizes += [int(limit)] if limit.isdigit() else []
    return min(sizes) if sizes else None


def _read(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _port_error(tf_config):
    from tpu_train.tf_config import read_cluster  # here: the child process needs no other file

    try:
        cluster = read_cluster(tf_config)
    except ValueError:
        cluster = None  # reported by the check of the workers
    if cluster is None:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", int(cluster.address.rpartition(":")[2])))
            server.listen()
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _folder(workdir):
    if "://" in workdir:
        return Folder(workdir)  # the child process tries to write there
    path = os.path.abspath(workdir)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
        return Folder(workdir, free_bytes=shutil.disk_usage(path).free)
    except OSError as error:
        return Folder(workdir, error=error.strerror or str(error))


def _import(workdir):
    """Runs this file as a program (:func:`_child`) and parses its output."""
    try:
        process = subprocess.run(
            [sys.executable, os.path.abspath(__file__), workdir],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_TIMEOUT,
            # Another Keras backend has a separate check; a check reads the native log.
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "0"},
        )
    except subprocess.TimeoutExpired:
        return Imported(
            error=f"timed out after {IMPORT_TIMEOUT} s", doing="import TensorFlow and Keras"
        )
    results = {}
    for line in process.stdout.splitlines():
        if line.startswith(_MARK):
            results.update(json.loads(line[len(_MARK) :]))
    stderr = process.stderr.strip().splitlines()
    results["gpus"] = tuple(results.get("gpus", ()))
    status = process.returncode
    if status:
        signal = {4: "SIGILL", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV"}.get(-status)
        last = next((line for line in reversed(stderr) if line.strip()), f"status {status}")
        results["error"] = f"killed by {signal}" if signal else last.strip()
    return Imported(stderr="\n".join(stderr[-20:]), **results)


_MARK = "effnet-train doctor: "  # tells the results from what TensorFlow prints


def _child(workdir):
    """Imports the packages one by one, and prints the results and the current step."""

    def report(**results):
        print(_MARK + json.dumps(results), flush=True)

    sys.path.pop(0)  # this file's folder, whose modules would shadow others
    report(doing="import tensorflow")
    start = time.perf_counter()
    import tensorflow as tf

    report(doing="list devices", tensorflow=tf.__version__, seconds=time.perf_counter() - start)
    try:
        from tensorflow.python.framework import kernels

        registered = kernels.get_registered_kernels_for_op("ConfigureDistributedTPU")
        report(tpu_kernels=bool(registered.kernel))
    except (ImportError, AttributeError):  # not public: fall back on the distribution's name
        pass
    report(cuda_build=tf.test.is_built_with_cuda())
    report(gpus=[device.name for device in tf.config.list_physical_devices("GPU")])
    report(doing="import keras")
    importlib.import_module("keras")
    report(doing="import keras_cv")
    try:
        importlib.import_module("keras_cv")  # only whether it imports
    except ModuleNotFoundError as error:
        if error.name != "keras_cv":
            report(keras_cv=str(error))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        report(keras_cv=f"{type(error).__name__}: {error}")
    report(doing="")
    if "://" in workdir:
        path = f"{workdir.rstrip('/')}/.effnet-train-doctor"
        try:
            tf.io.gfile.makedirs(workdir)
            with tf.io.gfile.GFile(path, "w") as file:
                file.write("")
            tf.io.gfile.remove(path)
        except (tf.errors.OpError, OSError) as error:
            report(workdir=str(error).splitlines()[0])


if __name__ == "__main__":
    _child(sys.argv[1])
