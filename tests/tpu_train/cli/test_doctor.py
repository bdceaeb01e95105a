import json

import pytest

from tests.tpu_train.diagnostics.environments import GOOD
from tpu_train.cli.doctor import main
from tpu_train.diagnostics.environment import Environment


@pytest.mark.slow
def test_this_environment_has_no_problem(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert main([f"--workdir={tmp_path}/run", "--device=cpu", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    checks = {f["check"]: f["message"] for f in findings}
    assert "imports in" in checks["tensorflow"]
    assert "are met" in checks["requirements"]
    assert "writable" in checks["workdir"]


def test_bad_flags_are_refused_before_anything_slow(capsys, monkeypatch):
    monkeypatch.setattr("tpu_train.cli.doctor.probe_environment", None)
    for argv in (["--devic=cpu"], ["--device=banana"], ["now"]):
        assert main(argv) == 2
        assert "effnet-train doctor: " in capsys.readouterr().err


def test_the_exit_status_is_1_with_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(
        "tpu_train.cli.doctor.probe_environment", lambda _, device: Environment(device=device)
    )
    assert main(["--device=cpu"]) == 1
    assert "PROBLEM" in capsys.readouterr().out
    monkeypatch.setattr("tpu_train.cli.doctor.probe_environment", lambda workdir, device: GOOD)
    assert main([]) == 0
