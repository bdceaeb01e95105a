"""Checks of TPUs, GPUs and the workers of a cluster: Environment -> findings."""

from __future__ import annotations

import json
from collections.abc import Iterator

from packaging.version import Version

from tpu_train.diagnostics import known_issues
from tpu_train.diagnostics.environment import (
    LOCAL_TPU,
    REMOTE_TPU,
    TPU_DEVICES,
    Environment,
)
from tpu_train.diagnostics.finding import NOTE, OK, PROBLEM, Finding, counted
from tpu_train.diagnostics.packages import (
    has_several_builds,
    install_tpu_build,
    tensorflow_build,
    tpu_is_local,
    unmet_requirement,
)
from tpu_train.tf_config import read_cluster


def check_tpu(env: Environment) -> Iterator[Finding]:
    """Whether the TPU that ``--device`` selects can be used by the installed TensorFlow."""
    kind, _, name = env.device.partition(":")
    if kind not in ("auto", "tpu"):
        return
    signs = [*env.tpu_devices, *(v for v in (*LOCAL_TPU, *REMOTE_TPU) if v in env.variables)]
    if not signs and not name:
        yield from _no_tpu(env, kind)
    elif tpu_is_local(env):
        yield from _local_tpu(env, signs[0] if signs else env.device)
    else:
        yield from _remote_tpu(env, name or ", ".join(signs))


def check_libtpu(env: Environment) -> Iterator[Finding]:
    """Whether libtpu has the version that the TPU build of TensorFlow pins."""
    build = env.packages.get("tensorflow-tpu")
    if build is None or has_several_builds(env):
        return
    libtpu = env.packages.get("libtpu")
    unmet = unmet_requirement(env, "tensorflow-tpu", "libtpu")
    if unmet:
        yield Finding(
            PROBLEM,
            "libtpu",
            f"libtpu {libtpu.version if libtpu else 'is missing'}",
            why=f"tensorflow-tpu {build.version} requires libtpu{unmet.specifier}; jax installs "
            f"another version ({known_issues.LIBTPU_FROM_JAX})",
            fix=f'pip install "libtpu{unmet.specifier}" {known_issues.TPU_LINKS}',
        )
    elif libtpu:
        yield Finding(OK, "libtpu", f"libtpu {libtpu.version}")


def check_gpu(env: Environment) -> Iterator[Finding]:
    """Whether TensorFlow sees the GPUs of the machine."""
    kind = env.device.partition(":")[0]
    if kind in ("tpu", "cpu"):
        return
    if not env.gpus:
        if kind == "gpu":
            yield Finding(
                PROBLEM,
                "gpu",
                "--device=gpu, but no NVIDIA GPU was found",
                why="nvidia-smi reports none, and /dev/nvidia0 does not exist: the driver is "
                "missing, or the container was started without GPUs",
                fix="docker run --gpus=all ...\n# on Colab: Runtime > Change runtime type > GPU",
            )
        return
    if env.imported is None or env.imported.error:
        return  # reported by the check of TensorFlow
    gpus = f"{len(env.gpus)} x {env.gpus[0]}"
    hidden = env.variables.get("CUDA_VISIBLE_DEVICES")
    if env.imported.gpus:
        yield Finding(OK, "gpu", f"{gpus}; TensorFlow sees {len(env.imported.gpus)}")
    elif hidden in ("", "-1"):
        yield Finding(
            NOTE,
            "gpu",
            f"{gpus}, hidden by CUDA_VISIBLE_DEVICES={hidden}",
            fix="unset CUDA_VISIBLE_DEVICES",
        )
    elif env.system == "Windows":
        yield Finding(
            PROBLEM,
            "gpu",
            f"{gpus}, but TensorFlow sees none",
            why="since version 2.11 TensorFlow supports GPUs on Windows only inside WSL2",
            fix="wsl --install",
        )
    else:
        yield _gpu_without_cuda(env, gpus)


def check_workers(env: Environment) -> Iterator[Finding]:
    """Whether ``TF_CONFIG`` describes a cluster in which this worker can take part."""
    kind = env.device.partition(":")[0]
    text = env.variables.get("TF_CONFIG", "")
    if kind not in ("auto", "multi-worker") or not (text or kind == "multi-worker"):
        return
    example = {
        "cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
        "task": {"type": "worker", "index": 0},
    }
    try:
        cluster = read_cluster(text)
        if cluster is None:
            raise ValueError("TF_CONFIG has no cluster: no chief and no worker is in it")
    except ValueError as error:
        yield Finding(
            PROBLEM,
            "workers",
            str(error),
            why="all workers share the same cluster; each has its own index",
            fix=f"export TF_CONFIG='{json.dumps(example)}'",
        )
        return
    if env.port_error:
        yield Finding(
            PROBLEM,
            "workers",
            f"cannot listen at this worker's address {cluster.address}: {env.port_error}",
            why="another process uses the port; possibly an earlier worker is still running",
            fix=f"fuser -v {cluster.address.rpartition(':')[2]}/tcp",
        )
    else:
        workers = counted(len(cluster.addresses), "worker")
        yield Finding(OK, "workers", f"{workers}, this one at {cluster.address}")


def _no_tpu(env, kind):
    if kind == "tpu":
        yield Finding(
            PROBLEM,
            "tpu",
            "--device=tpu, but no TPU was found",
            why=f"found neither {' nor '.join(TPU_DEVICES)} nor {', '.join(REMOTE_TPU)}",
            fix="# on Colab: Runtime > Change runtime type > TPU\n"
            "# elsewhere: --device=tpu:NAME of the node, or --device=auto",
        )
    elif tensorflow_build(env)[0] == "tensorflow-tpu":
        yield Finding(
            NOTE,
            "tpu",
            "TensorFlow's TPU build is installed, but no TPU was found: it uses the CPU",
        )


def _remote_tpu(env, node):
    yield Finding(
        NOTE,
        "tpu",
        f"a remote TPU node ({node})",
        why="it runs its own TensorFlow, which must have the same version as this one, and cannot "
        "read local files: data and workdir must be on gs:// "
        f"({known_issues.REMOTE_TPU_LOCAL_FILES})",
    )
    if env.folder and "://" not in env.folder.path:
        yield Finding(
            PROBLEM,
            "tpu",
            f"workdir {env.folder.path} is local, but the TPU is remote",
            why="File system scheme '[local]' not implemented "
            f"({known_issues.REMOTE_TPU_LOCAL_FILES})",
            fix="--workdir=gs://BUCKET/RUN",
        )


def _local_tpu(env, sign):
    name, build = tensorflow_build(env)
    if build is None or has_several_builds(env):
        return  # reported by the check of TensorFlow
    supports_tpu = env.imported.tpu_kernels if env.imported else None
    if supports_tpu is None:
        supports_tpu = name == "tensorflow-tpu"
    if not supports_tpu:
        yield Finding(
            PROBLEM,
            "tpu",
            f"this machine has a TPU ({sign}), but {name} {build.version} cannot use it",
            why="only TensorFlow's TPU build can; others fail with \"No OpKernel ... "
            f"'ConfigureDistributedTPU'\" ({known_issues.NO_TPU_KERNELS})",
            fix=f"pip uninstall -y {name}\n" + install_tpu_build(env),
        )
    elif name == "tensorflow-tpu" and Version(build.version) != Version(known_issues.TPU_VERSION):
        yield Finding(
            NOTE,
            "tpu",
            f"tensorflow-tpu {build.version} ({sign})",
            why=f"Keras names {known_issues.TPU_VERSION} as the last version that supports TPUs "
            "(requirements-tensorflow-tpu.txt), and the instructions for 2.18 stopped working in "
            f"June 2025 ({known_issues.TPU_RECIPE_2_18}). If no TPU is found:",
            fix=install_tpu_build(env),
        )
    else:
        yield Finding(OK, "tpu", f"{name} {build.version} can use the TPU ({sign})")
    if env.imported and "libtpu.so already in use" in env.imported.stderr:
        yield Finding(
            NOTE,
            "tpu",
            "another process holds the TPU",
            why="a TPU serves one process at a time; possibly a notebook is still running "
            f"({known_issues.TPU_IN_USE})",
            fix="sudo lsof -w /dev/accel* /dev/vfio/*",
        )


def _gpu_without_cuda(env, gpus):
    dlopen = next((line for line in env.imported.stderr.splitlines() if "dlopen" in line), "")
    why = f"its CUDA libraries are not installed ({known_issues.CUDA_LIBRARIES})"
    if not env.imported.cuda_build:
        why = "this build of TensorFlow has no CUDA"
    return Finding(
        PROBLEM,
        "gpu",
        f"{gpus}, but TensorFlow sees none",
        why=why + (f'. TensorFlow reports: "{dlopen.strip()}"' if dlopen else ""),
        fix=f'pip install "tensorflow[and-cuda]=={env.imported.tensorflow}"',
    )
