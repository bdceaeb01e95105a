import dataclasses
import importlib.metadata
import json
import re
import socket

import pytest

from tpu_train.cli.doctor import main
from tpu_train.diagnostics import environment as reading
from tpu_train.diagnostics.checks import NOTE, OK, PROBLEM, examine, show
from tpu_train.diagnostics.environment import Environment, Folder, Imported, Package, cluster

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


def of(check, environment=GOOD, **changes):
    """The findings of one check, of an environment with some things changed."""
    environment = dataclasses.replace(environment, **changes)
    return [f for f in examine(environment) if f.check == check]


def one(check, environment=GOOD, **changes):
    (finding,) = of(check, environment, **changes)
    return finding


@pytest.mark.parametrize(
    "environment",
    [GOOD, dataclasses.replace(GOOD, packages=LEGACY), ON_TPU],
    ids=["newest", "legacy", "tpu"],
)
def test_a_sound_environment_has_no_problem(environment):
    assert {f.level for f in examine(environment)} == {OK}


@pytest.mark.parametrize("level", [NOTE, PROBLEM])
def test_every_way_out_is_a_line_to_copy(level):
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
    found = [f for b in broken for f in examine(dataclasses.replace(GOOD, **b)) if f.level == level]
    assert len(found) >= 4
    for finding in found:
        assert finding.fix, finding
        for line in finding.fix.splitlines():
            assert re.match(commands, line), finding


def test_a_python_without_tensorflow_is_named():
    finding = one("python", python=(3, 14, 1), packages={})
    assert finding.level == PROBLEM
    assert "up to 3.13" in finding.why
    assert finding.fix.startswith("python3.12 -m venv")
    assert one("python", python=(3, 13, 0), packages={}).level == OK


def test_a_python_that_the_tpu_build_has_no_wheel_for_is_named():
    finding = one("python", python=(3, 13, 0), tpu_devices=("/dev/accel0",))
    assert finding.level == PROBLEM
    assert "up to 3.12" in finding.why
    assert TPU_LINE in finding.fix
    assert one("python", ON_TPU, python=(3, 12, 1)).level == OK


def test_a_python_older_than_keras_asks_for_is_named():
    finding = one("python", python=(3, 10, 4))
    assert finding.level == PROBLEM
    assert "keras 3.15.1 needs Python >=3.11" in finding.found


def test_no_tensorflow_is_a_problem_and_the_line_fits_the_machine():
    nothing = {"packages": {}, "imported": None}
    assert one("tensorflow", **nothing).fix == 'pip install "tensorflow>=2.15"'
    assert "[and-cuda]" in one("tensorflow", gpus=("NVIDIA H100",), **nothing).fix
    assert one("tensorflow", tpu_devices=("/dev/vfio/0",), **nothing).fix == TPU_LINE


def test_two_tensorflows_are_one_problem_with_one_way_out():
    both = {**NEWEST, **FOR_TPU}
    findings = examine(dataclasses.replace(ON_TPU, packages=both))
    (problem,) = [f for f in findings if f.level == PROBLEM]
    assert "tensorflow 2.21.0 and tensorflow-tpu 2.19.1" in problem.found
    assert "ConfigureDistributedTPU" in problem.why
    assert problem.fix == f"pip uninstall -y tensorflow tensorflow-tpu\n{TPU_LINE}"
    here = one("tensorflow", packages=both)  # without a TPU, the plain one
    assert here.fix.splitlines()[1] == 'pip install "tensorflow==2.21.0"'


def test_a_tensorflow_that_does_not_import_is_a_finding_with_its_last_words():
    error = Imported(error="ImportError: libfoo.so", doing="import tensorflow")
    finding = one("tensorflow", imported=error)
    assert finding.level == PROBLEM
    assert "ImportError: libfoo.so" in finding.found
    assert finding.fix == 'pip install --force-reinstall "tensorflow==2.21.0"'
    keras = Imported(error="ImportError: x", doing="import keras", tensorflow="2.21.0")
    assert '"keras==3.15.1"' in one("tensorflow", imported=keras).fix
    no_avx = Imported(error="killed by SIGILL", doing="import tensorflow")
    assert "AVX" in one("tensorflow", imported=no_avx).why


@pytest.mark.parametrize(
    ("packages", "keras", "fix"),
    [
        (LEGACY, "3.5.0", 'pip install "keras<2.16,>=2.15.0"'),
        (NEWEST, "2.15.0", 'pip install "keras>=3.12.0"'),
    ],
)
def test_a_keras_of_another_generation_is_named(packages, keras, fix):
    finding = one("keras", packages={**packages, "keras": Package(keras)})
    assert (finding.level, finding.fix) == (PROBLEM, fix)
    assert ("keras-team/keras#19448" in finding.why) == (keras == "3.5.0")


def test_another_keras_backend_is_named_wherever_it_is_chosen():
    assert one("backend", variables={"KERAS_BACKEND": "jax"}).level == PROBLEM
    assert "keras.json" in one("backend", keras_json_backend="torch").found
    over = one("backend", variables={"KERAS_BACKEND": "tensorflow"}, keras_json_backend="torch")
    assert over.level == OK
    assert not of("backend", packages=LEGACY)


def test_numpy_2_with_a_tensorflow_of_numpy_1_is_named():
    finding = one("requirements", packages={**LEGACY, "numpy": Package("2.1.3")})
    assert finding.level == PROBLEM
    assert "built for NumPy 1" in finding.why
    assert finding.fix == 'pip install "numpy<2.0.0,>=1.23.5"'
    missing = one("requirements", packages=without(NEWEST, "numpy"))
    assert missing.found == "numpy is missing"


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
def test_a_tpu_with_plain_tensorflow_is_named(sign):
    finding = one("tpu", **sign)
    assert finding.level == PROBLEM
    assert "tensorflow 2.21.0 cannot use it" in finding.found
    assert finding.fix.startswith(f"pip uninstall -y tensorflow\n{TPU_LINE}")
    in_notebook = "COLAB" in str(sign) or "KAGGLE" in str(sign)
    assert ("restart the notebook" in finding.fix) == in_notebook


def test_the_tpu_build_is_told_by_its_kernels_before_its_name():
    """Kaggle's and the TPU VM images' builds are called tensorflow."""
    able = dataclasses.replace(GOOD.imported, tpu_kernels=True)
    assert one("tpu", tpu_devices=("/dev/accel0",), imported=able).level == OK
    unknown = dataclasses.replace(ON_TPU.imported, tpu_kernels=None)
    assert one("tpu", ON_TPU, imported=unknown).level == OK


@pytest.mark.parametrize("device", ["cpu", "gpu:2", "multi-worker"])
def test_a_tpu_is_no_matter_when_another_device_is_asked_for(device):
    assert not of("tpu", tpu_devices=("/dev/accel0",), device=device)


def test_a_tensorflow_newer_or_older_than_the_last_with_tpus_is_noted():
    for version in ("2.20.0", "2.18.0"):
        packages = {**FOR_TPU, "tensorflow-tpu": Package(version)}
        finding = one("tpu", ON_TPU, packages=packages)
        assert (finding.level, finding.fix) == (NOTE, TPU_LINE)
        assert "2.19.1" in finding.why


def test_a_libtpu_that_the_build_does_not_pin_is_named():
    finding = one("libtpu", ON_TPU, packages={**FOR_TPU, "libtpu": Package("0.0.21")})
    assert finding.level == PROBLEM
    assert 'pip install "libtpu==0.0.10" --find-links' in finding.fix
    assert one("libtpu", ON_TPU, packages=without(FOR_TPU, "libtpu")).found.endswith("missing")


def test_a_tpu_that_another_process_holds_is_noted():
    busy = dataclasses.replace(ON_TPU.imported, said="libtpu.so already in use by another process")
    assert [f.level for f in of("tpu", ON_TPU, imported=busy)] == [OK, NOTE]


def test_a_tpu_elsewhere_cannot_see_a_local_workdir():
    node = {"variables": {"COLAB_TPU_ADDR": "10.0.0.2:8470"}}
    note, problem = of("tpu", folder=Folder("run1", free_bytes=2**40), **node)
    assert (note.level, problem.level) == (NOTE, PROBLEM)
    assert "tensorflow#36447" in problem.why
    assert one("tpu", folder=Folder("gs://bucket/run1"), **node).level == NOTE


def test_a_tpu_that_is_asked_for_and_not_there_is_a_problem():
    assert one("tpu", device="tpu").level == PROBLEM
    assert one("tpu", device="tpu:my-node").level == NOTE
    assert one("tpu", ON_TPU, tpu_devices=()).level == NOTE


def test_a_gpu_that_tensorflow_does_not_see_is_named():
    said = "W0000 gpu_device.cc: Cannot dlopen some GPU libraries."
    blind = Imported(tensorflow="2.21.0", cuda_build=True, said=said)
    finding = one("gpu", gpus=("NVIDIA H100",), imported=blind)
    assert finding.level == PROBLEM
    assert "Cannot dlopen" in finding.why
    assert finding.fix == 'pip install "tensorflow[and-cuda]==2.21.0"'
    seen = dataclasses.replace(blind, gpus=("/physical_device:GPU:0",))
    assert one("gpu", gpus=("NVIDIA H100",), imported=seen).level == OK
    for value in ("-1", ""):
        hidden = {"CUDA_VISIBLE_DEVICES": value}
        finding = one("gpu", gpus=("NVIDIA H100",), imported=blind, variables=hidden)
        assert (finding.level, finding.fix) == (NOTE, "unset CUDA_VISIBLE_DEVICES")
    assert one("gpu", device="gpu").level == PROBLEM
    assert not of("gpu", device="cpu", gpus=("NVIDIA H100",), imported=blind)


def tf_config(workers=("a:1", "b:2"), task=("worker", 0), **more):
    return json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": task[0], "index": task[1]}, **more}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no cluster"),
        ('{"task": {"type": "worker", "index": 0}}', "no cluster"),
        ('{"cluster": {"worker": []}}', "no worker"),
        ('{"cluster": {"worker": ["a:1"]}}', "no task"),
        (tf_config(["a", "b:2"]), "'a' is no address with a port"),
        (tf_config(["a:x", "b:2"]), "'a:x' is no address with a port"),
        (tf_config(["a:1", "a:1"]), "a:1 twice"),
        (tf_config(task=("worker", 2)), "index 2 is out of range: there are 2"),
        (tf_config(task=("worker", -1)), "index -1 is out of range"),
        (tf_config(task=("ps", 0)), "task type 'ps' has no address"),
    ],
)
def test_a_tf_config_that_cannot_work_is_explained(text, said):
    finding = one("workers", variables={"TF_CONFIG": text})
    assert finding.level == PROBLEM
    assert said in finding.found
    example = finding.fix.removeprefix("export TF_CONFIG='").rstrip("'")
    assert cluster(example)[1] == "10.0.0.1:2222"


def test_a_tf_config_that_works_says_who_this_worker_is():
    assert one("workers", variables={"TF_CONFIG": tf_config(task=("worker", 1))}).found == (
        "2 workers, this one at b:2"
    )
    chief = (
        '{"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}'
    )
    assert cluster(chief) == (["c:1", "a:1"], "c:1")
    assert one("workers", device="multi-worker").level == PROBLEM
    assert not of("workers", variables={"TF_CONFIG": "{"}, device="cpu")


def test_a_port_of_this_worker_that_is_taken_is_seen():
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        taken = reading._port_error(tf_config([f"localhost:{port}", "b:1"]))
    assert "in use" in taken
    assert one("workers", variables={"TF_CONFIG": tf_config()}, port_error=taken).level == PROBLEM
    assert reading._port_error(tf_config([f"localhost:{port}", "b:1"])) == ""


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"TF_XLA_FLAGS": "--tf_xla_auto_jit=2"}, "--tf_xla_auto_jit is set"),
        ({"XLA_FLAGS": "--xla_dump_to=/tmp/x"}, "--xla_dump_to is set"),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "TF_ENABLE_ONEDNN_OPTS=0"),
    ],
)
def test_flags_that_slow_a_training_are_noted(variables, found):
    finding = one("flags", variables=variables)
    assert (finding.level, finding.found) == (NOTE, found)
    assert not of("flags", variables={"TF_XLA_FLAGS": "--tf_xla_auto_jit=0"})


def test_packages_of_single_features_are_notes():
    with_addons = {"tensorflow-addons": Package("0.23.0")}
    assert one("addons", packages={**NEWEST, **with_addons}).level == NOTE
    assert not of("addons", packages={**LEGACY, **with_addons})
    assert one("keras-cv", packages=without(NEWEST, "keras-cv")).level == NOTE
    broken = dataclasses.replace(GOOD.imported, keras_cv="ImportError: x")
    assert "ImportError: x" in one("keras-cv", imported=broken).found
    assert one("tensorboard", packages=without(NEWEST, "tensorboard")).level == PROBLEM


def test_a_machine_too_small_for_its_accelerators_is_noted():
    assert one("machine", cores=8, memory_bytes=2**35).level == OK
    assert one("machine", cores=2, memory_bytes=2**35, gpus=("NVIDIA H100",)).level == NOTE
    assert one("machine", cores=8, memory_bytes=2**31).level == NOTE


def test_a_work_folder_is_tried_and_not_made(tmp_path):
    path = str(tmp_path / "not" / "yet")
    folder = reading._folder(path)
    assert folder.free_bytes > 0
    assert not folder.error
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert reading._folder(str(tmp_path / "file" / "run")).error
    assert one("workdir", folder=reading._folder(str(tmp_path / "file"))).level == PROBLEM


@pytest.mark.parametrize(("gib", "level"), [(0.5, PROBLEM), (5, NOTE), (50, OK)])
def test_a_disk_that_a_run_would_fill_is_named(gib, level):
    assert one("workdir", folder=Folder("run", free_bytes=int(gib * 2**30))).level == level


def test_a_remote_work_folder_is_judged_by_the_child():
    assert one("workdir", folder=Folder("gs://b/run")).level == OK
    refused = dataclasses.replace(GOOD.imported, workdir="403 Forbidden")
    assert one("workdir", folder=Folder("gs://b/run"), imported=refused).level == PROBLEM


def test_the_report_keeps_commands_whole_and_wraps_the_rest():
    environment = dataclasses.replace(GOOD, tpu_devices=("/dev/accel0",))
    lines = show(environment, examine(environment)).splitlines()
    assert lines[0] == "Python 3.11.0, tensorflow 2.21.0, keras 3.15.1 on Linux x86_64"
    assert lines[-1] == "1 problem. Once put right, ask again."
    assert [line.strip() for line in lines if "find-links" in line] == [TPU_LINE]
    assert all(len(line) <= 100 for line in lines if "find-links" not in line)
    assert show(GOOD, examine(GOOD)).endswith("No problem found.")


@pytest.fixture
def fake_tensorflow(tmp_path, monkeypatch):
    """Makes `import tensorflow` in a child run these lines."""

    def write(lines):
        folder = tmp_path / "path" / "tensorflow"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(lines)
        monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    return write


@pytest.mark.parametrize(
    ("lines", "patience", "error"),
    [
        ("raise ImportError('libfoo.so is missing')", 60, "ImportError: libfoo.so is missing"),
        ("import os; os.kill(os.getpid(), 4)", 60, "killed by SIGILL"),
        ("import time; time.sleep(60)", 0.2, "did not end in 0.2 s"),
    ],
)
def test_a_broken_tensorflow_breaks_only_the_child(
    fake_tensorflow, monkeypatch, lines, patience, error
):
    monkeypatch.setattr(reading, "PATIENCE", patience)
    fake_tensorflow(lines)
    imported = reading._import("")
    assert error in imported.error
    assert "import" in imported.doing


@pytest.mark.slow
def test_the_command_finds_this_environment_sound(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert main([f"--workdir={tmp_path}/run", "--device=cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    checks = {f["check"]: f["found"] for f in found}
    assert "imports in" in checks["tensorflow"]
    assert "fit" in checks["requirements"]
    assert "can be written" in checks["workdir"]


@pytest.mark.slow
def test_the_child_tries_a_remote_work_folder():
    imported = reading._import("ram://run")
    assert imported.error == ""
    assert imported.workdir == ""
    assert imported.tpu_kernels is False
    assert imported.tensorflow == importlib.metadata.version("tensorflow")
    assert "scheme" in reading._import("nowhere://run").workdir


def test_bad_flags_are_refused_before_anything_slow(capsys, monkeypatch):
    monkeypatch.setattr("tpu_train.cli.doctor.gather", None)
    for argv in (["--devic=cpu"], ["--device=banana"], ["now"]):
        assert main(argv) == 2
        assert "effnet-train doctor: " in capsys.readouterr().err


def test_the_exit_status_is_1_with_a_problem(capsys, monkeypatch):
    monkeypatch.setattr("tpu_train.cli.doctor.gather", lambda _, device: Environment(device=device))
    assert main(["--device=cpu"]) == 1
    assert "PROBLEM" in capsys.readouterr().out
    monkeypatch.setattr("tpu_train.cli.doctor.gather", lambda workdir, device: GOOD)
    assert main([]) == 0
