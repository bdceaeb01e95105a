"""`make test` and requirements/optional.sh on a machine whose network refuses packages.

Every command is a fake, and PATH holds nothing else: no test can install anything.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOOLS = ["bash", "cat", "env", "grep", "mkdir", "rm", "sh", "tail", "tee", "test", "touch", "true"]
INPUTS = [
    "Makefile",
    "setup.py",
    "requirements/optional.sh",
    "requirements/newest.txt",
    "requirements/torch.txt",
    "requirements/legacy.txt",
    "examples/web/package.json",
    "examples/web/package-lock.json",
]
NPM_REFUSED = """\
echo 'npm error code E403' >&2
echo 'npm error 403 Forbidden - GET https://registry.npmjs.org/left-pad' >&2
echo 'npm error If you are behind a proxy, check its settings.' >&2
echo 'npm error A complete log of this run can be found in: /root/.npm/_logs/1.log' >&2
exit 1"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def checkout(tmp_path):
    """The build files with an installed `.venv`; the commands append their calls to calls.txt."""
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in [*TOOLS, "make"]:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    (tmp_path / "examples/web/node_modules").mkdir()
    for name in ("id", "chromium", "fish", "zsh", "psql", "npm"):
        _fake(tmp_path / "bin" / name)
    for name in ("python", "ruff"):
        _fake(tmp_path / ".venv/bin" / name)
    (tmp_path / ".venv/ready").touch()
    return tmp_path


def _fake(path, script="exit 0"):
    """Writes a command that logs its call and then runs `script`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "$CALLS"\n{script}\n')
    path.chmod(0o755)


def _run(checkout, *command):
    environment = {"PATH": str(checkout / "bin"), "CALLS": str(checkout / "calls.txt")}
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def _legacy_python(checkout, pip="exit 0"):
    """A python3.10 whose `-m venv` makes an environment with the given pip."""
    _fake(checkout / "venv_python", f'case "$*" in *pip*) {pip} ;; esac')
    script = (
        'case "$*" in *venv*) mkdir -p .venv-legacy/bin; cat venv_python > .venv-legacy/bin/python;'
        f" {shutil.which('chmod')} +x .venv-legacy/bin/python ;; esac"
    )
    _fake(checkout / "bin" / "python3.10", script)


def test_a_complete_run_tests_three_stacks_and_reports_no_skip(checkout):
    _legacy_python(checkout)
    result = _run(checkout, "make", "test")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Skipped" not in result.stdout
    calls = (checkout / "calls.txt").read_text()
    assert calls.count("-m pytest -n 2") == 3
    for stamp in (".venv/debian", ".venv/web", ".venv-legacy/ready"):
        assert (checkout / stamp).exists()
    (checkout / "calls.txt").unlink()
    assert _run(checkout, "make", "test").returncode == 0
    assert "npm" not in (checkout / "calls.txt").read_text()  # installed once


def test_refused_packages_skip_tests_and_are_listed_last(checkout):
    (checkout / "bin/chromium").unlink()
    _fake(checkout / "bin/id", "echo 0")
    _fake(checkout / "bin/apt-get", "echo 'E: Unable to locate package chromium' >&2; exit 100")
    _fake(checkout / "bin/npm", NPM_REFUSED)
    _legacy_python(
        checkout, pip="echo 'ERROR: No keras==2.15.0'; echo 'ERROR: see the help'; exit 1"
    )
    result = _run(checkout, "make", "test")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "Skipped: MediaPipe and web page tests: apt-get install failed: "
        "E: Unable to locate package chromium (full log: .venv/skipped/debian.log)",
        "Skipped: TensorFlow 2.15 tests: pip install failed: "
        "ERROR: No keras==2.15.0 (full log: .venv/skipped/legacy.log)",
        "Skipped: web page tests: npm ci failed: npm error 403 Forbidden - GET "
        "https://registry.npmjs.org/left-pad (full log: .venv/skipped/web.log)",
    ]
    assert (checkout / "calls.txt").read_text().count("-m pytest") == 2
    assert not (checkout / "examples/web/node_modules").exists()


def test_a_skip_ends_when_the_installation_succeeds(checkout):
    _fake(checkout / "bin/npm", NPM_REFUSED)
    assert "Skipped: web page tests" in _run(checkout, "make", "test").stdout
    _fake(checkout / "bin/npm")
    _legacy_python(checkout)
    assert "Skipped" not in _run(checkout, "make", "test").stdout


def test_no_python_for_tensorflow_2_15_is_a_skip(checkout):
    _fake(checkout / "bin/python3.9", "echo 'pyenv: python3.9: command not found' >&2; exit 127")
    result = _run(checkout, "make", "test")
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith(
        "Skipped: TensorFlow 2.15 tests: pip install failed: Python 3.9, 3.10 or 3.11 is needed"
    )


def test_a_user_without_root_gets_the_command_for_root(checkout):
    (checkout / "bin/chromium").unlink()
    _fake(checkout / "bin/id", "echo 1000")
    result = _run(checkout, "requirements/optional.sh", "debian")
    assert result.returncode == 0
    assert "failed: run as root: apt-get install -y --no-install-recommends" in result.stdout


@pytest.mark.parametrize("failing", ["pytest", "pip"])
def test_a_failure_of_the_main_stack_fails(failing, checkout):
    _fake(checkout / ".venv/bin/python", f'case "$*" in *{failing}*) exit 1 ;; esac')
    _fake(checkout / ".venv/bin/pip", "exit 1")
    if failing == "pip":
        (checkout / ".venv/ready").unlink()
        _fake(checkout / "bin/python3")
    assert _run(checkout, "make", "test").returncode != 0


def test_check_installs_nothing_outside_the_checkout(checkout):
    _legacy_python(checkout)
    assert _run(checkout, "make", "check").returncode == 0
    calls = (checkout / "calls.txt").read_text()
    assert '-m pytest -n 2 --dist worksteal --durations=25 -m "not slow"'.replace('"', "") in calls
    for command in ("npm", "apt-get", "python3.10"):
        assert command not in calls
