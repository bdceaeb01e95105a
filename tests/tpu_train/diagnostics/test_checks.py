import dataclasses
import re

import pytest

from tests.tpu_train.diagnostics.environments import (
    FOR_TPU,
    GOOD,
    LEGACY,
    NEWEST,
    ON_TPU,
    TPU_LINE,
    finding_of,
    findings_of,
    without,
)
from tpu_train.diagnostics.checks import examine
from tpu_train.diagnostics.environment import Folder, Imported, Package
from tpu_train.diagnostics.finding import NOTE, OK, PROBLEM


@pytest.mark.parametrize(
    "environment",
    [GOOD, dataclasses.replace(GOOD, packages=LEGACY), ON_TPU],
    ids=["newest", "legacy", "tpu"],
)
def test_sound_environments_have_no_problem(environment):
    assert {f.level for f in examine(environment)} == {OK}


@pytest.mark.parametrize("level", [NOTE, PROBLEM])
def test_every_fix_is_a_command_or_a_shell_comment(level):
    """What is wrong has a fix, each line of which is a command or a comment."""
    broken = [
        {"packages": {}},
        {"packages": {**NEWEST, **FOR_TPU}, "tpu_devices": ("/dev/accel0",)},
        {"python": (3, 14, 0), "packages": {}},
        {"packages": {**NEWEST, "numpy": Package("1.20.0"), "keras": Package("2.15.0")}},
        {"gpus": ("NVIDIA H100",)},
        {"variables": {"KERAS_BACKEND": "jax", "TF_CONFIG": "{", "TF_ENABLE_ONEDNN_OPTS": "0"}},
        {"device": "tpu"},
        {"device": "gpu"},
        {"packages": {**NEWEST, "tensorflow-addons": Package("0.23.0")}},
        {"packages": without(NEWEST, "keras-cv"), "folder": Folder("run", free_bytes=2**30 * 5)},
    ]
    commands = r"pip |python3|export |unset |docker |fuser |sudo |--workdir=|# "
    findings = [
        f for b in broken for f in examine(dataclasses.replace(GOOD, **b)) if f.level == level
    ]
    assert len(findings) >= 4
    for finding in findings:
        assert finding.fix, finding
        for line in finding.fix.splitlines():
            assert re.match(commands, line), finding


def test_a_python_too_new_for_tensorflow_is_a_problem():
    finding = finding_of("python", python=(3, 14, 1), packages={})
    assert finding.level == PROBLEM
    assert "up to 3.13" in finding.why
    assert finding.fix.startswith("python3.12 -m venv")
    assert finding_of("python", python=(3, 13, 0), packages={}).level == OK


def test_a_python_too_new_for_the_tpu_build_is_a_problem():
    finding = finding_of("python", python=(3, 13, 0), tpu_devices=("/dev/accel0",))
    assert finding.level == PROBLEM
    assert "up to 3.12" in finding.why
    assert TPU_LINE in finding.fix
    assert finding_of("python", ON_TPU, python=(3, 12, 1)).level == OK


def test_a_python_too_old_for_keras_is_a_problem():
    finding = finding_of("python", python=(3, 10, 4))
    assert finding.level == PROBLEM
    assert "keras 3.15.1 needs Python >=3.11" in finding.message


def test_missing_tensorflow_is_fixed_by_the_build_for_the_machine():
    nothing = {"packages": {}, "imported": None}
    assert finding_of("tensorflow", **nothing).fix == 'pip install "tensorflow>=2.15"'
    assert "[and-cuda]" in finding_of("tensorflow", gpus=("NVIDIA H100",), **nothing).fix
    assert finding_of("tensorflow", tpu_devices=("/dev/vfio/0",), **nothing).fix == TPU_LINE


def test_two_tensorflow_builds_are_one_problem_with_one_fix():
    both = {**NEWEST, **FOR_TPU}
    findings = examine(dataclasses.replace(ON_TPU, packages=both))
    (problem,) = [f for f in findings if f.level == PROBLEM]
    assert "tensorflow 2.21.0 and tensorflow-tpu 2.19.1" in problem.message
    assert "ConfigureDistributedTPU" in problem.why
    assert problem.fix == f"pip uninstall -y tensorflow tensorflow-tpu\n{TPU_LINE}"
    here = finding_of("tensorflow", packages=both)  # without a TPU, the plain one
    assert here.fix.splitlines()[1] == 'pip install "tensorflow==2.21.0"'


def test_a_failed_import_is_a_problem_with_its_error_message():
    error = Imported(error="ImportError: libfoo.so", doing="import tensorflow")
    finding = finding_of("tensorflow", imported=error)
    assert finding.level == PROBLEM
    assert "ImportError: libfoo.so" in finding.message
    assert finding.fix == 'pip install --force-reinstall "tensorflow==2.21.0"'
    keras = Imported(error="ImportError: x", doing="import keras", tensorflow="2.21.0")
    assert '"keras==3.15.1"' in finding_of("tensorflow", imported=keras).fix
    no_avx = Imported(error="killed by SIGILL", doing="import tensorflow")
    assert "AVX" in finding_of("tensorflow", imported=no_avx).why


@pytest.mark.parametrize(
    ("packages", "keras", "fix"),
    [
        (LEGACY, "3.5.0", 'pip install "keras<2.16,>=2.15.0"'),
        (NEWEST, "2.15.0", 'pip install "keras>=3.12.0"'),
    ],
)
def test_a_keras_of_the_wrong_major_version_is_a_problem(packages, keras, fix):
    finding = finding_of("keras", packages={**packages, "keras": Package(keras)})
    assert (finding.level, finding.fix) == (PROBLEM, fix)
    assert ("keras-team/keras#19448" in finding.why) == (keras == "3.5.0")


def test_another_keras_backend_is_a_problem_wherever_it_is_set():
    assert finding_of("backend", variables={"KERAS_BACKEND": "jax"}).level == PROBLEM
    assert "keras.json" in finding_of("backend", keras_json_backend="torch").message
    over = finding_of(
        "backend", variables={"KERAS_BACKEND": "tensorflow"}, keras_json_backend="torch"
    )
    assert over.level == OK
    assert not findings_of("backend", packages=LEGACY)


def test_numpy_2_with_a_tensorflow_for_numpy_1_is_a_problem():
    finding = finding_of("requirements", packages={**LEGACY, "numpy": Package("2.1.3")})
    assert finding.level == PROBLEM
    assert "built for NumPy 1" in finding.why
    assert finding.fix == 'pip install "numpy<2.0.0,>=1.23.5"'
    missing = finding_of("requirements", packages=without(NEWEST, "numpy"))
    assert missing.message == "numpy is missing"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TF_XLA_FLAGS": "--tf_xla_auto_jit=2"}, "--tf_xla_auto_jit is set"),
        ({"XLA_FLAGS": "--xla_dump_to=/tmp/x"}, "--xla_dump_to is set"),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "TF_ENABLE_ONEDNN_OPTS=0"),
    ],
)
def test_flags_that_slow_down_training_are_notes(variables, message):
    finding = finding_of("flags", variables=variables)
    assert (finding.level, finding.message) == (NOTE, message)
    assert not findings_of("flags", variables={"TF_XLA_FLAGS": "--tf_xla_auto_jit=0"})


def test_packages_of_optional_features_are_notes():
    with_addons = {"tensorflow-addons": Package("0.23.0")}
    assert finding_of("addons", packages={**NEWEST, **with_addons}).level == NOTE
    assert not findings_of("addons", packages={**LEGACY, **with_addons})
    assert finding_of("keras-cv", packages=without(NEWEST, "keras-cv")).level == NOTE
    broken = dataclasses.replace(GOOD.imported, keras_cv="ImportError: x")
    assert "ImportError: x" in finding_of("keras-cv", imported=broken).message
    assert finding_of("tensorboard", packages=without(NEWEST, "tensorboard")).level == PROBLEM


def test_too_few_cores_or_too_little_memory_is_a_note():
    assert finding_of("machine", cores=8, memory_bytes=2**35).level == OK
    assert finding_of("machine", cores=2, memory_bytes=2**35, gpus=("NVIDIA H100",)).level == NOTE
    assert finding_of("machine", cores=8, memory_bytes=2**31).level == NOTE


@pytest.mark.parametrize(("gib", "level"), [(0.5, PROBLEM), (5, NOTE), (50, OK)])
def test_little_disk_space_is_a_note_or_a_problem(gib, level):
    assert finding_of("workdir", folder=Folder("run", free_bytes=int(gib * 2**30))).level == level


def test_a_remote_work_directory_is_checked_by_the_child():
    assert finding_of("workdir", folder=Folder("gs://b/run")).level == OK
    refused = dataclasses.replace(GOOD.imported, workdir="403 Forbidden")
    assert finding_of("workdir", folder=Folder("gs://b/run"), imported=refused).level == PROBLEM
