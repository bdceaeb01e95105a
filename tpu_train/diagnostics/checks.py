"""Checks of an environment for training: what is wrong, why it matters, and how to fix it.

:func:`examine` evaluates a :class:`tpu_train.diagnostics.environment.Environment` and touches
nothing. Versions and issue numbers are in :mod:`tpu_train.diagnostics.known_issues`.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tpu_train.diagnostics import known_issues
from tpu_train.diagnostics.accelerators import check_gpu, check_libtpu, check_tpu, check_workers
from tpu_train.diagnostics.environment import BUILDS, Environment
from tpu_train.diagnostics.finding import GIB, NOTE, OK, PROBLEM, Finding, counted
from tpu_train.diagnostics.packages import (
    has_several_builds,
    install_tensorflow,
    installed_builds,
    is_met,
    requirements,
    tensorflow_build,
    tpu_is_local,
    unmet_requirement,
)


def examine(environment: Environment) -> list[Finding]:
    """The findings of all checks, in the order of the report.

    >>> from tpu_train.diagnostics.environment import Environment
    >>> [f.check for f in examine(Environment()) if f.level == PROBLEM]
    ['tensorflow', 'keras', 'tensorboard']
    """
    return [finding for check in _CHECKS for finding in check(environment)]


def _python(env):
    python = f"Python {'.'.join(map(str, env.python))}"
    unsupported = [
        f"{name} {p.version} needs Python {p.requires_python}"
        for name, p in env.packages.items()
        if name in (*BUILDS, "keras", "keras-cv")
        and p.requires_python
        and ".".join(map(str, env.python)) not in SpecifierSet(p.requires_python)
    ]
    for_tpu = tpu_is_local(env)
    newest = known_issues.TPU_PYTHON if for_tpu else known_issues.NEWEST_PYTHON
    name, build = tensorflow_build(env)
    fix = "python3.12 -m venv ~/effnet && . ~/effnet/bin/activate\n" + install_tensorflow(env)
    if unsupported:
        yield Finding(PROBLEM, "python", f"{python}, but {'; '.join(unsupported)}", fix=fix)
    elif env.python[:2] > newest and (build is None or (for_tpu and name != "tensorflow-tpu")):
        package = (
            f"tensorflow-tpu {known_issues.TPU_VERSION}"
            if for_tpu
            else f"TensorFlow {known_issues.NEWEST_TENSORFLOW}"
        )
        yield Finding(
            PROBLEM,
            "python",
            python,
            why=f"{package} has wheels for Python up to {newest[0]}.{newest[1]}",
            fix=fix,
        )
    else:
        yield Finding(OK, "python", python)


def _tensorflow(env):
    name, package = tensorflow_build(env)
    if package is None:
        yield Finding(
            PROBLEM, "tensorflow", "TensorFlow is not installed", fix=install_tensorflow(env)
        )
    elif has_several_builds(env):
        yield _several_builds(env)
    elif Version(package.version) < Version(known_issues.OLDEST_TENSORFLOW):
        yield Finding(
            PROBLEM,
            "tensorflow",
            f"{name} {package.version}",
            why=f"this package needs TensorFlow {known_issues.OLDEST_TENSORFLOW} or newer",
            fix=install_tensorflow(env),
        )
    elif env.imported and env.imported.error:
        yield _failed_import(env, name, package)
    elif env.imported:
        yield Finding(
            OK,
            "tensorflow",
            f"{name} {env.imported.tensorflow} imports in {env.imported.seconds:.0f} s",
        )


def _several_builds(env):
    builds = installed_builds(env)
    names = " and ".join(f"{build} {env.packages[build].version}" for build in builds)
    why = "they share one folder, so the one installed last is used"
    if "tensorflow-tpu" in builds:
        why += (
            ". Without the TPU build's files, training fails with \"No OpKernel ... "
            f"'ConfigureDistributedTPU'\" ({known_issues.TWO_BUILDS})"
        )
    keep = "tensorflow-tpu" if "tensorflow-tpu" in builds and tpu_is_local(env) else builds[0]
    fix = f"pip uninstall -y {' '.join(builds)}\n"
    fix += install_tensorflow(env, keep, env.packages[keep].version)
    return Finding(PROBLEM, "tensorflow", f"{names} are both installed", why, fix)


def _failed_import(env, name, package):
    error, doing = env.imported.error, env.imported.doing
    broken, version = name, package.version
    if doing == "import keras" and "keras" in env.packages:
        broken, version = "keras", env.packages["keras"].version
    why, fix = "", f'pip install --force-reinstall "{broken}=={version}"'
    numpy = unmet_requirement(env, name, "numpy")
    if "SIGILL" in error:
        why = f"TensorFlow's wheels need a CPU with AVX ({known_issues.AVX}): use another machine"
        fix = ""
    elif "numpy" in error.lower() and numpy:
        fix = f'pip install "numpy{numpy.specifier}"'
    return Finding(PROBLEM, "tensorflow", f"{name} {package.version}: {doing}: {error}", why, fix)


def _keras(env):
    name, build = tensorflow_build(env)
    keras = env.packages.get("keras")
    if keras is None:
        yield Finding(PROBLEM, "keras", "Keras is not installed", fix='pip install "keras>=2.15"')
        return
    unmet = unmet_requirement(env, name, "keras")
    if unmet:
        if Version(keras.version).major >= 3:
            why = (
                f"{name} {build.version} was built for Keras 2; on TPUs training fails with a "
                f"NotFoundError at StatefulPartitionedCall ({known_issues.KERAS_3_ON_TPU})"
            )
        else:
            why = f"{name} {build.version} expects Keras 3 as tf.keras, whose file formats differ"
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
            why="tf.keras is then Keras 2, but `import keras` is Keras 3: their layers do not mix",
            fix="unset TF_USE_LEGACY_KERAS",
        )


def _backend(env):
    keras = env.packages.get("keras")
    if keras is None or Version(keras.version).major < 3:
        return
    variable = env.variables.get("KERAS_BACKEND")
    backend = variable or env.keras_json_backend or "tensorflow"
    if backend == "tensorflow":
        yield Finding(OK, "backend", "Keras uses TensorFlow")
        return
    where = "KERAS_BACKEND" if variable else "~/.keras/keras.json"
    yield Finding(
        PROBLEM,
        "backend",
        f"{where} selects {backend!r}",
        why="the networks run on every backend, but the trainer needs TensorFlow",
        fix="export KERAS_BACKEND=tensorflow",
    )


def _requirements(env):
    """TensorFlow's requirements by its metadata; Keras and libtpu have separate checks."""
    name, build = tensorflow_build(env)
    if build is None or has_several_builds(env):
        return
    required = requirements(build)
    unmet = [
        r
        for r in required
        if canonicalize_name(r.name) not in ("keras", "libtpu") and not is_met(env, r)
    ]
    for r in unmet:
        package = env.packages.get(canonicalize_name(r.name))
        why = f"{name} {build.version} requires {r.name}{r.specifier}"
        if package and r.name == "numpy" and not r.specifier.contains("2.0.0"):
            why += (
                ": built for NumPy 1, it crashes on import (_ARRAY_API not found) or fails in the "
                "middle of a run"
            )
        yield Finding(
            PROBLEM,
            "requirements",
            f"{r.name} {package.version if package else 'is missing'}",
            why,
            f'pip install "{r.name}{r.specifier}"',
        )
    if not unmet:
        yield Finding(OK, "requirements", f"all {len(required)} requirements of {name} are met")


def _flags(env):
    flags = f"{env.variables.get('TF_XLA_FLAGS', '')} {env.variables.get('XLA_FLAGS', '')}"
    for flag, why in (
        (
            "--tf_xla_auto_jit=",
            "XLA then recompiles parts of the step at every image size, and is slow on a CPU: B0 "
            "trains at 2.9 images/s on two cores, and at 25 without it",
        ),
        ("--tf_xla_cpu_global_jit", "XLA is slower than TensorFlow's own kernels on a CPU"),
        ("--xla_dump_to", "every compiled program is written to disk, gigabytes in one run"),
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
            why="convolutions on the CPU are slower without oneDNN",
            fix="unset TF_ENABLE_ONEDNN_OPTS",
        )


def _addons(env):
    build = tensorflow_build(env)[1]
    addons = env.packages.get("tensorflow-addons")
    last = known_issues.ADDONS_LAST_TENSORFLOW
    if addons and build and Version(build.version).release[:2] > Version(last).release:
        yield Finding(
            NOTE,
            "addons",
            f"tensorflow-addons {addons.version} with {build.version}",
            why=f"it imports only with TensorFlow up to {last}. Only the optimizers tfa_... need "
            "it. In a separate environment (Python 3.9 to 3.11):",
            fix='pip install "keras_effnet[addons]"',
        )


def _keras_cv(env):
    if "keras-cv" not in env.packages:
        message = "keras-cv is not installed"
    elif env.imported and env.imported.keras_cv:
        message = f"keras-cv {env.packages['keras-cv'].version}: {env.imported.keras_cv}"
    else:
        return
    yield Finding(
        NOTE,
        "keras-cv",
        message,
        why="only --augment=keras_cv and the augmentation preview need it",
        fix='pip install --upgrade "keras-cv>=0.9"',
    )


def _tensorboard(env):
    if "tensorboard" not in env.packages:
        yield Finding(
            PROBLEM,
            "tensorboard",
            "tensorboard is not installed",
            why="the trainer writes its metrics with it, and TensorFlow "
            f"{known_issues.NEWEST_TENSORFLOW} no longer installs it",
            fix="pip install tensorboard",
        )


def _machine(env):
    memory = f", {env.memory_bytes / GIB:.0f} GiB of memory" if env.memory_bytes else ""
    resources = f"{env.cores:g} cores{memory}"
    accelerators = len(env.gpus) or len(env.tpu_devices)
    if env.memory_bytes and env.memory_bytes < 4 * GIB:
        yield Finding(
            NOTE,
            "machine",
            resources,
            why="this is little for training: use a smaller --batch_size, or gradient "
            "accumulation (--gradient_accumulation_first, --gradient_accumulation_last)",
        )
    elif accelerators and env.cores < 4 * accelerators and not env.device.startswith("cpu"):
        yield Finding(
            NOTE,
            "machine",
            f"{resources} for {counted(accelerators, 'accelerator')}",
            why="one core decodes and augments a few hundred images per second: the input "
            "pipeline may limit the throughput",
        )
    else:
        yield Finding(OK, "machine", resources)


def _workdir(env):
    if env.folder is None:
        return
    path, free = env.folder.path, env.folder.free_bytes
    error = env.folder.error or (env.imported.workdir if env.imported else "")
    if error:
        yield Finding(
            PROBLEM,
            "workdir",
            f"{path} is not writable: {error}",
            fix="--workdir=FOLDER that is writable",
        )
    elif free is not None and free < 10 * GIB:
        yield Finding(
            PROBLEM if free < 1 * GIB else NOTE,
            "workdir",
            f"{path} has {free / GIB:.1f} GiB free",
            why="a checkpoint holds the weights, the EMA weights and two optimizer slots: 0.1 GB "
            "for B0, 2 GB for V2-L; several checkpoints are kept",
            fix="--workdir=FOLDER on a larger disk",
        )
    else:
        room = "" if free is None else f", {free / GIB:.0f} GiB free"
        yield Finding(OK, "workdir", f"{path} is writable{room}")


_CHECKS = (  # in the order of the report
    *(_python, _tensorflow, _keras, _backend, _requirements),
    *(check_tpu, check_libtpu, check_gpu, check_workers),
    *(_flags, _addons, _keras_cv, _tensorboard, _machine, _workdir),
)
