"""What there is to train with: an :class:`Environment`, read without importing TensorFlow here.

TensorFlow is imported last and in a child process, so that a broken one is a value and no crash.
:mod:`tpu_train.diagnostics.checks` judges it.
"""

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
from typing import Optional

from packaging.utils import canonicalize_name

BUILDS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly")
TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
LOCAL_TPU = ("COLAB_TPU_1VM", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID")  # set on a TPU VM
REMOTE_TPU = ("COLAB_TPU_ADDR", "TPU_NAME")
VARIABLES = (  # all that is read of the process's environment
    *LOCAL_TPU,
    *REMOTE_TPU,
    *("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"),
    *("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", "TF_CONFIG", "CUDA_VISIBLE_DEVICES"),
    *("TF_XLA_FLAGS", "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS"),
)
PATIENCE = 240  # seconds for TensorFlow's import, which is slow from a cold network disk


@dataclass(frozen=True)
class Package:
    """An installed distribution, by its metadata."""

    version: str
    requires: tuple = ()
    requires_python: str = ""


@dataclass(frozen=True)
class Folder:
    """The work folder, or where it would be made."""

    path: str
    error: str = ""  # of writing there
    free_bytes: Optional[int] = None


@dataclass(frozen=True)
class Imported:
    """What a child process found that imported TensorFlow; fields after `error` may be unset."""

    error: str = ""
    doing: str = ""  # at the end, or when it failed
    said: str = ""  # the last lines of its error output
    seconds: float = 0.0
    tensorflow: str = ""
    tpu_kernels: Optional[bool] = None  # whether this build can talk to a TPU beside it
    cuda_build: bool = False
    gpus: tuple = ()
    keras_cv: str = ""  # the error of its import
    workdir: str = ""  # the error of writing to a remote one


@dataclass(frozen=True)
class Environment:
    """All that the checks look at."""

    python: tuple = (3, 11, 0)
    system: str = "Linux"
    machine: str = "x86_64"
    packages: dict = field(default_factory=dict)  # canonical name -> Package
    variables: dict = field(default_factory=dict)  # those of VARIABLES that are set
    keras_json_backend: str = ""  # of ~/.keras/keras.json
    tpu_devices: tuple = ()
    gpus: tuple = ()  # as the driver names them
    cores: float = 8.0  # that this process may use
    memory_bytes: Optional[int] = None
    port_error: str = ""  # of listening at this worker's own port
    folder: Optional[Folder] = None
    imported: Optional[Imported] = None  # None where there is no TensorFlow
    device: str = "auto"


def gather(workdir="", device="auto"):
    """The :class:`Environment` of this process; takes as long as TensorFlow's import."""
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


def cluster(tf_config):
    """(addresses of all workers, this one's) of a ``TF_CONFIG``; ``ValueError`` says what is off.

    >>> cluster('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    (['a:1', 'b:1'], 'b:1')
    """
    if not tf_config:
        raise ValueError("TF_CONFIG is not set, and --device=multi-worker needs it")
    try:
        config = json.loads(tf_config)
    except ValueError as error:
        raise ValueError(f"TF_CONFIG is no JSON: {error} (quote it with '...')") from None
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        raise ValueError("TF_CONFIG has no cluster")
    chief, workers = (config["cluster"].get(kind) or [] for kind in ("chief", "worker"))
    everyone = [*chief, *workers]
    if not everyone:
        raise ValueError("TF_CONFIG's cluster has no worker")
    for address in everyone:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"TF_CONFIG: {address!r} is no address with a port, as 10.0.0.1:2222")
        if everyone.count(address) > 1:
            raise ValueError(f"TF_CONFIG has {address} twice: every worker has its own")
    task = config.get("task")
    if not isinstance(task, dict):
        raise ValueError("TF_CONFIG has no task: which of the workers is this one?")
    kind, index = task.get("type"), task.get("index")
    own = {"chief": chief, "worker": workers}.get(str(kind))
    if not own:
        raise ValueError(f"TF_CONFIG: task type {kind!r} has no address in the cluster")
    if not str(index).isdigit() or int(index) >= len(own):
        raise ValueError(
            f"TF_CONFIG: task index {index!r} is out of range: there are {len(own)} of type "
            f"{kind}, so give 0 to {len(own) - 1}"
        )
    return everyone, own[int(index)]


def _packages():
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and canonicalize_name(name) not in found:  # the first on the path is imported
            found[canonicalize_name(name)] = Package(
                distribution.version,
                tuple(distribution.requires or ()),
                distribution.metadata.get("Requires-Python") or "",
            )
    return found


def _keras_json_backend():
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file).get("backend") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _gpus():
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        found = [line.split(" (UUID")[0].split(": ", 1)[-1] for line in listed.splitlines()]
        return tuple(name for name in found if name)
    except (OSError, subprocess.SubprocessError):
        return tuple(p for p in sorted(glob.glob("/dev/nvidia[0-9]*")))


def _cores():
    """That this process may use: its affinity, and a container's quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    return round(cores, 1)


def _memory():
    """Bytes of the machine, or of a container's limit."""
    total = next((s for s in _read("/proc/meminfo").splitlines() if "MemTotal" in s), "")
    known = [int(w) * 1024 for w in total.split() if w.isdigit()]
    limit = _read("/sys/fs/cgroup/memory.max")
    known += [int(limit)] if limit.isdigit() else []
    return min(known) if known else None


def _read(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _port_error(tf_config):
    try:
        _, own = cluster(tf_config)
    except ValueError:
        return ""  # the check says it
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(own.rpartition(":")[2])))
            probe.listen()
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _folder(workdir):
    if "://" in workdir:
        return Folder(workdir)  # the child tries it
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
    """Runs this file as a program, which is :func:`_child`, and reads what it said."""
    try:
        done = subprocess.run(
            [sys.executable, os.path.abspath(__file__), workdir],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},  # another one is a finding already
        )
    except subprocess.TimeoutExpired:
        return Imported(error=f"did not end in {PATIENCE} s", doing="import TensorFlow and Keras")
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            found.update(json.loads(line[len(_MARK) :]))
    said = done.stderr.strip().splitlines()
    found["gpus"] = tuple(found.get("gpus", ()))
    if done.returncode:
        died = {4: "SIGILL", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV"}.get(-done.returncode)
        last = next((s for s in reversed(said) if s.strip()), f"status {done.returncode}")
        found["error"] = f"killed by {died}" if died else last.strip()
    return Imported(said="\n".join(said[-20:]), **found)


_MARK = "effnet-train doctor: "  # TensorFlow prints, too


def _child(workdir):
    """Imports what may break, one after the other, and says how far it came."""

    def say(**found):
        print(_MARK + json.dumps(found), flush=True)

    sys.path.pop(0)  # this file's folder, whose modules nobody else means
    say(doing="import tensorflow")
    start = time.perf_counter()
    import tensorflow as tf

    say(doing="look for devices", tensorflow=tf.__version__, seconds=time.perf_counter() - start)
    try:
        from tensorflow.python.framework import kernels

        registered = kernels.get_registered_kernels_for_op("ConfigureDistributedTPU")
        say(tpu_kernels=bool(registered.kernel))
    except (ImportError, AttributeError):  # not public: then the distribution's name has to do
        pass
    say(cuda_build=tf.test.is_built_with_cuda())
    say(gpus=[device.name for device in tf.config.list_physical_devices("GPU")])
    say(doing="import keras")
    importlib.import_module("keras")
    say(doing="import keras_cv")
    try:
        importlib.import_module("keras_cv")  # whether it can be, no more: augment.py uses it
    except ModuleNotFoundError as error:
        if error.name != "keras_cv":
            say(keras_cv=str(error))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        say(keras_cv=f"{type(error).__name__}: {error}")
    say(doing="")
    if "://" in workdir:
        path = f"{workdir.rstrip('/')}/.effnet-train-doctor"
        try:
            tf.io.gfile.makedirs(workdir)
            with tf.io.gfile.GFile(path, "w") as file:
                file.write("")
            tf.io.gfile.remove(path)
        except (tf.errors.OpError, OSError) as error:
            say(workdir=str(error).splitlines()[0])


if __name__ == "__main__":
    _child(sys.argv[1])
