"""What is wrong with an environment for training, why it matters, and the line that puts it right.

:func:`gather` reads the environment into an :class:`Environment`, :func:`examine` judges that value
and touches nothing. TensorFlow is imported last and in a child process, so that a broken one is a
finding and no crash. A finding cites the thread in which people met it.
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
import textwrap
import time
from dataclasses import dataclass, field
from typing import Optional

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

OK, NOTE, PROBLEM = "ok", "note", "problem"

BUILDS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly")
NEWEST_PYTHON = (3, 13)  # that TensorFlow 2.21 has wheels for
TPU_VERSION = "2.19.1"  # keras-team/keras, requirements-tensorflow-tpu.txt: the last with TPUs
TPU_PYTHON = (3, 12)  # the newest that it has wheels for
TPU_LINKS = "--find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html"

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

GIB = 2**30
PATIENCE = 240  # seconds for TensorFlow's import, which is slow from a cold network disk


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and the way out where it is not as it should be."""

    level: str  # ok, note (works, worth knowing) or problem
    check: str
    found: str
    why: str = ""
    fix: str = ""  # command lines, and comments as a shell's


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


def examine(environment):
    """The list of :class:`Finding` of an :class:`Environment`. Pure.

    >>> [f.check for f in examine(Environment()) if f.level == PROBLEM]
    ['tensorflow', 'keras', 'tensorboard']
    """
    return [finding for check in CHECKS for finding in check(environment)]


def show(environment, findings):
    """The findings as a report for people."""
    versions = [f"Python {'.'.join(map(str, environment.python))}"]
    for name in (*BUILDS, "keras"):
        if name in environment.packages:
            versions.append(f"{name} {environment.packages[name].version}")
    lines = [f"{', '.join(versions)} on {environment.system} {environment.machine}", ""]
    for f in findings:
        mark = "PROBLEM" if f.level == PROBLEM else f.level
        lines += _wrapped(f"  {mark:<9}{f.check:<14}", f.found)
        if f.why:
            lines += _wrapped(f"{'why':>23}  ", f.why)
        for i, line in enumerate(f.fix.splitlines()):
            lines.append(f"{'do' if i == 0 else '':>23}  {line}")  # whole, to be copied
    problems, notes = (sum(f.level == level for f in findings) for level in (PROBLEM, NOTE))
    lines.append("")
    also = f", {_many(notes, 'note')}" if notes else ""
    if problems:
        lines.append(f"{_many(problems, 'problem')}{also}. Once put right, ask again.")
    else:
        lines.append(f"No problem found{also}.")
    return "\n".join(lines)


def _wrapped(head, text):
    return textwrap.wrap(text, 96, initial_indent=head, subsequent_indent=" " * len(head))


def _many(n, what):
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


# The checks: Environment -> findings, in the order of the report.


def _python(env):
    have = f"Python {'.'.join(map(str, env.python))}"
    fits = [
        f"{name} {p.version} needs Python {p.requires_python}"
        for name, p in env.packages.items()
        if name in (*BUILDS, "keras", "keras-cv")
        and p.requires_python
        and ".".join(map(str, env.python)) not in SpecifierSet(p.requires_python)
    ]
    for_tpu = _tpu_is_local(env)
    newest = TPU_PYTHON if for_tpu else NEWEST_PYTHON
    name, build = _build(env)
    if fits:
        yield Finding(
            PROBLEM, "python", f"{have}, and {'; '.join(fits)}", fix=_new_environment(env)
        )
    elif env.python[:2] > newest and (build is None or (for_tpu and name != "tensorflow-tpu")):
        what = f"tensorflow-tpu {TPU_VERSION}" if for_tpu else "TensorFlow 2.21"
        yield Finding(
            PROBLEM,
            "python",
            have,
            why=f"{what} has wheels for Python up to {newest[0]}.{newest[1]}",
            fix=_new_environment(env),
        )
    else:
        yield Finding(OK, "python", have)


def _new_environment(env):
    return "python3.12 -m venv ~/effnet && . ~/effnet/bin/activate\n" + _install_tensorflow(env)


def _tensorflow(env):
    there = _builds(env)
    if not there:
        yield Finding(
            PROBLEM, "tensorflow", "TensorFlow is not installed", fix=_install_tensorflow(env)
        )
        return
    if len(there) > 1:
        names = " and ".join(f"{b} {env.packages[b].version}" for b in there)
        why = "they share one folder, and the one installed last is what runs"
        if "tensorflow-tpu" in there:
            why += (
                ": without the TPU build's files it ends with \"No OpKernel ... "
                "'ConfigureDistributedTPU'\" (googlecolab/colabtools#5174, tensorflow#96203)"
            )
        keep = "tensorflow-tpu" if "tensorflow-tpu" in there and _tpu_is_local(env) else there[0]
        fix = f"pip uninstall -y {' '.join(there)}\n"
        fix += _install_tensorflow(env, keep, env.packages[keep].version)
        yield Finding(PROBLEM, "tensorflow", f"{names} are both installed", why, fix)
        return
    name, package = _build(env)
    if Version(package.version) < Version("2.15"):
        yield Finding(
            PROBLEM,
            "tensorflow",
            f"{name} {package.version}",
            why="this package is written for TensorFlow 2.15 and newer",
            fix=_install_tensorflow(env),
        )
    elif env.imported and env.imported.error:
        yield _broken(env, name, package)
    elif env.imported:
        yield Finding(
            OK,
            "tensorflow",
            f"{name} {env.imported.tensorflow} imports in {env.imported.seconds:.0f} s",
        )


def _broken(env, name, package):
    error, doing = env.imported.error, env.imported.doing
    what, version = name, package.version
    if doing == "import keras" and "keras" in env.packages:
        what, version = "keras", env.packages["keras"].version
    why, fix = "", f'pip install --force-reinstall "{what}=={version}"'
    if "SIGILL" in error:
        why = "TensorFlow's wheels need a processor with AVX (tensorflow#17411): take another one"
        fix = ""
    elif "numpy" in error.lower() and _mismatch(env, name, "numpy"):
        fix = f'pip install "numpy{_mismatch(env, name, "numpy").specifier}"'
    return Finding(PROBLEM, "tensorflow", f"{name} {package.version}: {doing}: {error}", why, fix)


def _keras(env):
    name, build = _build(env)
    keras = env.packages.get("keras")
    if keras is None:
        yield Finding(PROBLEM, "keras", "Keras is not installed", fix='pip install "keras>=2.15"')
        return
    unmet = _mismatch(env, name, "keras")
    if unmet:
        if Version(keras.version).major >= 3:
            why = (
                f"{name} {build.version} was made with Keras 2: on TPUs training ends with a "
                "NotFoundError at StatefulPartitionedCall (keras-team/keras#19448, "
                "Kaggle/docker-python#1370)"
            )
        else:
            why = f"{name} {build.version} expects Keras 3 as tf.keras, and its saved files differ"
        yield Finding(
            PROBLEM,
            "keras",
            f"Keras {keras.version} with {name} {build.version}",
            why,
            f'pip install "keras{unmet.specifier}"',
        )
    else:
        yield Finding(OK, "keras", f"Keras {keras.version}")
    if env.variables.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        yield Finding(
            NOTE,
            "keras",
            "TF_USE_LEGACY_KERAS is set",
            why="tf.keras is then Keras 2 and `import keras` Keras 3: their layers do not mix",
            fix="unset TF_USE_LEGACY_KERAS",
        )


def _backend(env):
    keras = env.packages.get("keras")
    if keras is None or Version(keras.version).major < 3:
        return
    chosen = env.variables.get("KERAS_BACKEND")
    backend = chosen or env.keras_json_backend or "tensorflow"
    if backend == "tensorflow":
        yield Finding(OK, "backend", "Keras runs on TensorFlow")
        return
    where = "KERAS_BACKEND is" if chosen else "~/.keras/keras.json says"
    yield Finding(
        PROBLEM,
        "backend",
        f"{where} {backend!r}",
        why="the networks run on every backend, the trainer on TensorFlow alone",
        fix="export KERAS_BACKEND=tensorflow",
    )


def _requirements(env):
    """What TensorFlow's metadata asks for, by name; Keras and libtpu have checks of their own."""
    name, build = _build(env)
    if build is None or _mixed(env):
        return
    unmet = [
        r
        for r in _requires(build)
        if canonicalize_name(r.name) not in ("keras", "libtpu") and not _met(env, r)
    ]
    for r in unmet:
        there = env.packages.get(canonicalize_name(r.name))
        why = f"{name} {build.version} asks for {r.name}{r.specifier}"
        if there and r.name == "numpy" and not r.specifier.contains("2.0.0"):
            why += (
                ": built for NumPy 1, it crashes on import (_ARRAY_API not found) or fails in the "
                "middle of a run"
            )
        yield Finding(
            PROBLEM,
            "requirements",
            f"{r.name} {there.version if there else 'is missing'}",
            why,
            f'pip install "{r.name}{r.specifier}"',
        )
    if not unmet:
        n = len(_requires(build))
        yield Finding(OK, "requirements", f"all {n} packages that {name} asks for fit")


def _tpu(env):
    kind, _, named = env.device.partition(":")
    if kind not in ("auto", "tpu"):
        return
    signs = [*env.tpu_devices, *(v for v in (*LOCAL_TPU, *REMOTE_TPU) if v in env.variables)]
    name, build = _build(env)
    if not signs and not named:
        if kind == "tpu":
            yield Finding(
                PROBLEM,
                "tpu",
                "--device=tpu, and no TPU is in sight",
                why=f"neither {' nor '.join(TPU_DEVICES)} nor {', '.join(REMOTE_TPU)}",
                fix="# on Colab: Runtime > Change runtime type > TPU\n"
                "# elsewhere: --device=tpu:NAME of the node, or --device=auto",
            )
        elif name == "tensorflow-tpu":
            yield Finding(
                NOTE, "tpu", "TensorFlow's TPU build, and no TPU: it runs on the processor"
            )
        return
    if not _tpu_is_local(env):
        yield Finding(
            NOTE,
            "tpu",
            f"a TPU node elsewhere ({named or ', '.join(signs)})",
            why="it runs its own TensorFlow, whose version has to be this one's; and it sees no "
            "local files: data and workdir have to be gs:// (tensorflow#36447)",
        )
        if env.folder and "://" not in env.folder.path:
            yield Finding(
                PROBLEM,
                "tpu",
                f"workdir {env.folder.path} is local, the TPU is not",
                why="File system scheme '[local]' not implemented (tensorflow#36447)",
                fix="--workdir=gs://BUCKET/RUN",
            )
        return
    if build is None or _mixed(env):
        return  # said already
    sign = signs[0] if signs else env.device
    able = env.imported.tpu_kernels if env.imported else None
    if able is None:
        able = name == "tensorflow-tpu"
    if not able:
        yield Finding(
            PROBLEM,
            "tpu",
            f"a TPU is here ({sign}), and {name} {build.version} cannot use it",
            why="only TensorFlow's TPU build can: \"No OpKernel ... 'ConfigureDistributedTPU'\" "
            "(googlecolab/colabtools#5174, #5419; tensorflow#89797, #96203)",
            fix=f"pip uninstall -y {name}\n" + _install_tpu_build(env),
        )
    elif name == "tensorflow-tpu" and Version(build.version) != Version(TPU_VERSION):
        yield Finding(
            NOTE,
            "tpu",
            f"tensorflow-tpu {build.version} ({sign})",
            why=f"Keras calls {TPU_VERSION} the last that supports TPUs "
            "(requirements-tensorflow-tpu.txt), and the recipe for 2.18 stopped working in June "
            "2025 (googlecolab/colabtools#5419). If no TPU answers:",
            fix=_install_tpu_build(env),
        )
    else:
        yield Finding(OK, "tpu", f"{name} {build.version} can use the TPU ({sign})")
    if env.imported and "libtpu.so already in use" in env.imported.said:
        yield Finding(
            NOTE,
            "tpu",
            "another process holds the TPU",
            why="it serves one at a time: a notebook that still runs, perhaps (jax-ml/jax#10192)",
            fix="sudo lsof -w /dev/accel* /dev/vfio/*",
        )


def _libtpu(env):
    build = env.packages.get("tensorflow-tpu")
    if build is None or _mixed(env):
        return
    unmet = _mismatch(env, "tensorflow-tpu", "libtpu")
    if unmet:
        there = env.packages.get("libtpu")
        yield Finding(
            PROBLEM,
            "libtpu",
            f"libtpu {there.version if there else 'is missing'}",
            why=f"tensorflow-tpu {build.version} was built for libtpu{unmet.specifier}; jax brings "
            "another one (jax-ml/jax#29989)",
            fix=f'pip install "libtpu{unmet.specifier}" {TPU_LINKS}',
        )
    elif "libtpu" in env.packages:
        yield Finding(OK, "libtpu", f"libtpu {env.packages['libtpu'].version}")


def _gpu(env):
    kind = env.device.partition(":")[0]
    if kind in ("tpu", "cpu"):
        return
    if not env.gpus:
        if kind == "gpu":
            yield Finding(
                PROBLEM,
                "gpu",
                "--device=gpu, and no NVIDIA GPU is in sight",
                why="nvidia-smi names none, and there is no /dev/nvidia0: no driver, or a "
                "container without its devices",
                fix="docker run --gpus=all ...\n# on Colab: Runtime > Change runtime type > GPU",
            )
        return
    if env.imported is None or env.imported.error:
        return  # said already
    found = f"{len(env.gpus)} x {env.gpus[0]}"
    hidden = env.variables.get("CUDA_VISIBLE_DEVICES")
    if env.imported.gpus:
        yield Finding(OK, "gpu", f"{found}; TensorFlow sees {len(env.imported.gpus)}")
    elif hidden in ("", "-1"):
        yield Finding(
            NOTE,
            "gpu",
            f"{found}, hidden by CUDA_VISIBLE_DEVICES={hidden}",
            fix="unset CUDA_VISIBLE_DEVICES",
        )
    elif env.system == "Windows":
        yield Finding(
            PROBLEM,
            "gpu",
            f"{found}, and TensorFlow sees none",
            why="since 2.11 TensorFlow has no GPU on Windows itself, but within WSL2",
            fix="wsl --install",
        )
    else:
        reason = next((s for s in env.imported.said.splitlines() if "dlopen" in s), "")
        why = "its CUDA libraries are not installed (tensorflow#63362)"
        if not env.imported.cuda_build:
            why = "this build has no CUDA"
        yield Finding(
            PROBLEM,
            "gpu",
            f"{found}, and TensorFlow sees none",
            why=why + (f'. It says: "{reason.strip()}"' if reason else ""),
            fix=f'pip install "tensorflow[and-cuda]=={env.imported.tensorflow}"',
        )


def _workers(env):
    kind = env.device.partition(":")[0]
    text = env.variables.get("TF_CONFIG", "")
    if kind not in ("auto", "multi-worker") or not (text or kind == "multi-worker"):
        return
    example = {
        "cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
        "task": {"type": "worker", "index": 0},
    }
    try:
        workers, own = cluster(text)
    except ValueError as error:
        yield Finding(
            PROBLEM,
            "workers",
            str(error),
            why="every worker has the same cluster, and its own index",
            fix=f"export TF_CONFIG='{json.dumps(example)}'",
        )
        return
    if env.port_error:
        yield Finding(
            PROBLEM,
            "workers",
            f"own address {own}: {env.port_error}",
            why="another process listens there: a worker that still runs, perhaps",
            fix=f"fuser -v {own.rpartition(':')[2]}/tcp",
        )
    else:
        yield Finding(OK, "workers", f"{_many(len(workers), 'worker')}, this one at {own}")


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


def _flags(env):
    flags = f"{env.variables.get('TF_XLA_FLAGS', '')} {env.variables.get('XLA_FLAGS', '')}"
    for flag, why in (
        (
            "--tf_xla_auto_jit=",
            "XLA then compiles parts of the step anew at every image size, and is slow on a "
            "processor: B0 at 2.9 images a second on two cores, 25 without",
        ),
        ("--tf_xla_cpu_global_jit", "XLA on a processor is slower than TensorFlow itself"),
        ("--xla_dump_to", "every compiled program is written to disk, gigabytes in a run"),
    ):
        if flag in flags and f"{flag}0" not in flags:
            yield Finding(
                NOTE,
                "flags",
                f"{flag.rstrip('=')} is set",
                why,
                "unset TF_XLA_FLAGS" if flag.startswith("--tf_") else "unset XLA_FLAGS",
            )
    if env.variables.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        yield Finding(
            NOTE,
            "flags",
            "TF_ENABLE_ONEDNN_OPTS=0",
            why="convolutions on the processor are slower without oneDNN",
            fix="unset TF_ENABLE_ONEDNN_OPTS",
        )


def _addons(env):
    build = _build(env)[1]
    addons = env.packages.get("tensorflow-addons")
    if addons and build and Version(build.version) >= Version("2.16"):
        yield Finding(
            NOTE,
            "addons",
            f"tensorflow-addons {addons.version} with {build.version}",
            why="it imports only up to TensorFlow 2.15; the optimizers tfa_... need it, the others "
            "do not. In an environment of its own (Python 3.9 to 3.11):",
            fix='pip install "keras_effnet[addons]"',
        )


def _keras_cv(env):
    if "keras-cv" not in env.packages:
        found = "keras-cv is not installed"
    elif env.imported and env.imported.keras_cv:
        found = f"keras-cv {env.packages['keras-cv'].version}: {env.imported.keras_cv}"
    else:
        return
    yield Finding(
        NOTE,
        "keras-cv",
        found,
        why="only --augment=keras_cv and the gallery need it",
        fix='pip install --upgrade "keras-cv>=0.9"',
    )


def _tensorboard(env):
    if "tensorboard" not in env.packages:
        yield Finding(
            PROBLEM,
            "tensorboard",
            "tensorboard is not installed",
            why="the trainer writes its curves with it, and TensorFlow 2.21 no longer brings it",
            fix="pip install tensorboard",
        )


def _machine(env):
    memory = f", {env.memory_bytes / GIB:.0f} GiB of memory" if env.memory_bytes else ""
    have = f"{env.cores:g} cores{memory}"
    accelerators = len(env.gpus) or len(env.tpu_devices)
    if env.memory_bytes and env.memory_bytes < 4 * GIB:
        yield Finding(
            NOTE,
            "machine",
            have,
            why="little for training: a smaller --batch_size, or the batch in parts "
            "(--accumulation_first, --accumulation_last)",
        )
    elif accelerators and env.cores < 4 * accelerators and not env.device.startswith("cpu"):
        yield Finding(
            NOTE,
            "machine",
            f"{have} for {_many(accelerators, 'accelerator')}",
            why="a core decodes and augments a few hundred images a second: these may be what the "
            "accelerator waits for",
        )
    else:
        yield Finding(OK, "machine", have)


def _workdir(env):
    if env.folder is None:
        return
    path, free = env.folder.path, env.folder.free_bytes
    error = env.folder.error or (env.imported.workdir if env.imported else "")
    if error:
        yield Finding(
            PROBLEM,
            "workdir",
            f"{path} cannot be written: {error}",
            fix="--workdir=FOLDER that you may write to",
        )
    elif free is not None and free < 10 * GIB:
        yield Finding(
            PROBLEM if free < 1 * GIB else NOTE,
            "workdir",
            f"{path} has {free / GIB:.1f} GiB free",
            why="a checkpoint holds weights, averages and two slots: 0.1 GB for B0, 2 GB for V2-L; "
            "several are kept",
            fix="--workdir=FOLDER on a larger disk",
        )
    else:
        room = "" if free is None else f", {free / GIB:.0f} GiB free"
        yield Finding(OK, "workdir", f"{path} can be written{room}")


CHECKS = (
    *(_python, _tensorflow, _keras, _backend, _requirements, _tpu, _libtpu, _gpu, _workers),
    *(_flags, _addons, _keras_cv, _tensorboard, _machine, _workdir),
)


# What the checks share.


def _builds(env):
    return [b for b in BUILDS if b in env.packages]


def _mixed(env):
    return len(_builds(env)) > 1


def _build(env):
    """(name, Package) of the TensorFlow that is installed; ("tensorflow", None) without one."""
    name = next(iter(_builds(env)), "tensorflow")
    if _tpu_is_local(env) and "tensorflow-tpu" in env.packages:
        name = "tensorflow-tpu"
    return name, env.packages.get(name)


def _tpu_is_local(env):
    """Whether a TPU is in this machine (a TPU VM, Colab, Kaggle), and no node elsewhere."""
    kind, _, named = env.device.partition(":")
    if kind not in ("auto", "tpu") or (named and named != "local"):
        return False
    here = env.tpu_devices or any(v in env.variables for v in LOCAL_TPU)
    return bool(here) or "local" in (named, env.variables.get("TPU_NAME"))


def _install_tensorflow(env, name="tensorflow", version=""):
    if _tpu_is_local(env):
        return _install_tpu_build(env)
    extra = "[and-cuda]" if env.gpus and name == "tensorflow" and env.system == "Linux" else ""
    return f'pip install "{name}{extra}{f"=={version}" if version else ">=2.15"}"'


def _install_tpu_build(env):
    notebook = any(v in env.variables for v in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
    line = f'pip install "tensorflow-tpu=={TPU_VERSION}" {TPU_LINKS}'
    return line + ("\n# then restart the notebook's runtime" if notebook else "")


def _requires(package):
    """Its requirements that hold here, without those of its extras."""
    parsed = [Requirement(r) for r in package.requires]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _met(env, requirement):
    there = env.packages.get(canonicalize_name(requirement.name))
    return bool(there) and requirement.specifier.contains(there.version, prereleases=True)


def _mismatch(env, name, other):
    """The requirement of a package on another that is not met, or None."""
    package = env.packages.get(name)
    unmet = [
        r
        for r in (_requires(package) if package else ())
        if canonicalize_name(r.name) == other and not _met(env, r)
    ]
    return unmet[0] if unmet else None


# Reading the environment.


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
