"""What is wrong with an environment for training, why it matters, and the line that puts it right.

:func:`examine` judges an :class:`tpu_train.diagnostics.environment.Environment` and touches nothing. A finding
cites the thread in which people met it.
"""

import json
import textwrap
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tpu_train.diagnostics.environment import BUILDS, LOCAL_TPU, REMOTE_TPU, TPU_DEVICES, cluster

OK, NOTE, PROBLEM = "ok", "note", "problem"

NEWEST_PYTHON = (3, 13)  # that TensorFlow 2.21 has wheels for
TPU_VERSION = "2.19.1"  # keras-team/keras, requirements-tensorflow-tpu.txt: the last with TPUs
TPU_PYTHON = (3, 12)  # the newest that it has wheels for
TPU_LINKS = "--find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html"

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and the way out where it is not as it should be."""

    level: str  # ok, note (works, worth knowing) or problem
    check: str
    found: str
    why: str = ""
    fix: str = ""  # command lines, and comments as a shell's


def examine(environment):
    """The list of :class:`Finding` of an :class:`Environment`. Pure.

    >>> from tpu_train.diagnostics.environment import Environment
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
            "(--gradient_accumulation_first, --gradient_accumulation_last)",
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
