import dataclasses

import pytest

from tests.tpu_train.diagnostics.environments import (
    FOR_TPU,
    GOOD,
    ON_TPU,
    TPU_LINE,
    finding_of,
    findings_of,
    tf_config,
    without,
)
from tpu_train.diagnostics.environment import Folder, Imported, Package
from tpu_train.diagnostics.finding import NOTE, OK, PROBLEM
from tpu_train.tf_config import read_cluster


@pytest.mark.parametrize(
    "sign",
    [
        {"tpu_devices": ("/dev/accel0",)},
        {"tpu_devices": ("/dev/vfio/0",)},
        {"variables": {"COLAB_TPU_1VM": "1", "COLAB_RELEASE_TAG": "release"}},
        {"variables": {"TPU_WORKER_ID": "0", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}},
        {"variables": {"TPU_NAME": "local"}},
        {"device": "tpu:local"},
    ],
)
def test_a_tpu_with_plain_tensorflow_is_a_problem(sign):
    finding = finding_of("tpu", **sign)
    assert finding.level == PROBLEM
    assert "tensorflow 2.21.0 cannot use it" in finding.message
    assert finding.fix.startswith(f"pip uninstall -y tensorflow\n{TPU_LINE}")
    in_notebook = "COLAB" in str(sign) or "KAGGLE" in str(sign)
    assert ("restart the notebook" in finding.fix) == in_notebook


def test_the_tpu_build_is_recognized_by_its_kernels_first():
    """Kaggle's and the TPU VM images' builds are called tensorflow."""
    able = dataclasses.replace(GOOD.imported, tpu_kernels=True)
    assert finding_of("tpu", tpu_devices=("/dev/accel0",), imported=able).level == OK
    unknown = dataclasses.replace(ON_TPU.imported, tpu_kernels=None)
    assert finding_of("tpu", ON_TPU, imported=unknown).level == OK


@pytest.mark.parametrize("device", ["cpu", "gpu:2", "multi-worker"])
def test_a_tpu_is_ignored_if_another_device_is_selected(device):
    assert not findings_of("tpu", tpu_devices=("/dev/accel0",), device=device)


def test_a_tpu_build_of_another_version_is_a_note():
    for version in ("2.20.0", "2.18.0"):
        packages = {**FOR_TPU, "tensorflow-tpu": Package(version)}
        finding = finding_of("tpu", ON_TPU, packages=packages)
        assert (finding.level, finding.fix) == (NOTE, TPU_LINE)
        assert "2.19.1" in finding.why


def test_a_libtpu_of_another_version_is_a_problem():
    finding = finding_of("libtpu", ON_TPU, packages={**FOR_TPU, "libtpu": Package("0.0.21")})
    assert finding.level == PROBLEM
    assert 'pip install "libtpu==0.0.10" --find-links' in finding.fix
    assert finding_of("libtpu", ON_TPU, packages=without(FOR_TPU, "libtpu")).message.endswith(
        "missing"
    )


def test_a_tpu_held_by_another_process_is_a_note():
    busy = dataclasses.replace(
        ON_TPU.imported, stderr="libtpu.so already in use by another process"
    )
    assert [f.level for f in findings_of("tpu", ON_TPU, imported=busy)] == [OK, NOTE]


def test_a_remote_tpu_with_a_local_workdir_is_a_problem():
    node = {"variables": {"COLAB_TPU_ADDR": "10.0.0.2:8470"}}
    note, problem = findings_of("tpu", folder=Folder("run1", free_bytes=2**40), **node)
    assert (note.level, problem.level) == (NOTE, PROBLEM)
    assert "tensorflow#36447" in problem.why
    assert finding_of("tpu", folder=Folder("gs://bucket/run1"), **node).level == NOTE


def test_a_selected_but_missing_tpu_is_a_problem():
    assert finding_of("tpu", device="tpu").level == PROBLEM
    assert finding_of("tpu", device="tpu:my-node").level == NOTE
    assert finding_of("tpu", ON_TPU, tpu_devices=()).level == NOTE


def test_a_gpu_invisible_to_tensorflow_is_a_problem():
    stderr = "W0000 gpu_device.cc: Cannot dlopen some GPU libraries."
    blind = Imported(tensorflow="2.21.0", cuda_build=True, stderr=stderr)
    finding = finding_of("gpu", gpus=("NVIDIA H100",), imported=blind)
    assert finding.level == PROBLEM
    assert "Cannot dlopen" in finding.why
    assert finding.fix == 'pip install "tensorflow[and-cuda]==2.21.0"'
    seen = dataclasses.replace(blind, gpus=("/physical_device:GPU:0",))
    assert finding_of("gpu", gpus=("NVIDIA H100",), imported=seen).level == OK
    for value in ("-1", ""):
        hidden = {"CUDA_VISIBLE_DEVICES": value}
        finding = finding_of("gpu", gpus=("NVIDIA H100",), imported=blind, variables=hidden)
        assert (finding.level, finding.fix) == (NOTE, "unset CUDA_VISIBLE_DEVICES")
    assert finding_of("gpu", device="gpu").level == PROBLEM
    assert not findings_of("gpu", device="cpu", gpus=("NVIDIA H100",), imported=blind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "TF_CONFIG is JSON of type list"),
        ('{"task": {"type": "worker", "index": 0}}', "no cluster"),
        ('{"cluster": {"worker": []}}', "no worker is in it"),
        ('{"cluster": {"worker": ["a:1"]}}', "no task"),
        (tf_config(["a", "b:2"]), "'a' is not an address"),
        (tf_config(["a:x", "b:2"]), "'a:x' is not an address"),
        (tf_config(["a:1", "a:1"]), "a:1 twice"),
        (tf_config(task=("worker", 2)), "index 2 is out of range for 2 tasks"),
        (tf_config(task=("worker", -1)), "index -1 is out of range"),
        (tf_config(task=("ps", 0)), "task type 'ps' has no address"),
    ],
)
def test_an_invalid_tf_config_is_a_problem_with_an_example(text, message):
    finding = finding_of("workers", variables={"TF_CONFIG": text})
    assert finding.level == PROBLEM
    assert message in finding.message
    example = finding.fix.removeprefix("export TF_CONFIG='").rstrip("'")
    assert read_cluster(example).address == "10.0.0.1:2222"


def test_a_valid_tf_config_gives_this_workers_address():
    assert finding_of(
        "workers", variables={"TF_CONFIG": tf_config(task=("worker", 1))}
    ).message == ("2 workers, this one at b:2")
    chief = (
        '{"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}'
    )
    assert finding_of("workers", variables={"TF_CONFIG": chief}).message == (
        "2 workers, this one at c:1"
    )
    assert finding_of("workers", device="multi-worker").level == PROBLEM
    assert not findings_of("workers", variables={"TF_CONFIG": "{"}, device="cpu")
