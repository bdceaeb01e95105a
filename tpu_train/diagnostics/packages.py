"""Installed packages of an environment, and the pip commands that repair them."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tpu_train.diagnostics.environment import BUILDS, LOCAL_TPU, Environment, Package
from tpu_train.diagnostics.known_issues import OLDEST_TENSORFLOW, TPU_LINKS, TPU_VERSION


def installed_builds(env: Environment) -> list[str]:
    """The installed distributions of TensorFlow; more than one is a mistake."""
    return [build for build in BUILDS if build in env.packages]


def has_several_builds(env: Environment) -> bool:
    """Whether two or more distributions of TensorFlow share one folder."""
    return len(installed_builds(env)) > 1


def tensorflow_build(env: Environment) -> tuple[str, Package | None]:
    """(name, Package) of the installed TensorFlow; ("tensorflow", None) without one."""
    name = next(iter(installed_builds(env)), "tensorflow")
    if tpu_is_local(env) and "tensorflow-tpu" in env.packages:
        name = "tensorflow-tpu"
    return name, env.packages.get(name)


def tpu_is_local(env: Environment) -> bool:
    """Whether a TPU is attached to this machine (TPU VM, Colab, Kaggle), not a remote node."""
    kind, _, name = env.device.partition(":")
    if kind not in ("auto", "tpu") or (name and name != "local"):
        return False
    attached = env.tpu_devices or any(v in env.variables for v in LOCAL_TPU)
    return bool(attached) or "local" in (name, env.variables.get("TPU_NAME"))


def install_tensorflow(env: Environment, name: str = "tensorflow", version: str = "") -> str:
    """The pip command that installs the TensorFlow build which suits the machine."""
    if tpu_is_local(env):
        return install_tpu_build(env)
    extra = "[and-cuda]" if env.gpus and name == "tensorflow" and env.system == "Linux" else ""
    return f'pip install "{name}{extra}{f"=={version}" if version else f">={OLDEST_TENSORFLOW}"}"'


def install_tpu_build(env: Environment) -> str:
    """The pip command that installs TensorFlow's TPU build."""
    notebook = any(v in env.variables for v in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
    command = f'pip install "tensorflow-tpu=={TPU_VERSION}" {TPU_LINKS}'
    return command + ("\n# then restart the notebook's runtime" if notebook else "")


def requirements(package: Package) -> list[Requirement]:
    """The package's requirements in this environment, without those of its extras."""
    parsed = [Requirement(text) for text in package.requires]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def is_met(env: Environment, requirement: Requirement) -> bool:
    """Whether an installed package satisfies the requirement."""
    package = env.packages.get(canonicalize_name(requirement.name))
    return bool(package) and requirement.specifier.contains(package.version, prereleases=True)


def unmet_requirement(env: Environment, name: str, dependency: str) -> Requirement | None:
    """The requirement of package `name` on `dependency` that is not met, or None."""
    package = env.packages.get(name)
    for requirement in requirements(package) if package else ():
        if canonicalize_name(requirement.name) == dependency and not is_met(env, requirement):
            return requirement
    return None
