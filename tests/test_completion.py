"""Tab completion in the shells that are installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
argcomplete = pytest.importorskip("argcomplete", reason="pip install argcomplete")
PACKAGES = {"effnet": "keras_effnet", "effnet-train": "tpu_train", "effnet-tflite": "tflite"}
CANDIDATES = [
    ("effnet pre", "predict"),
    ("effnet predict photo.jpg --mod", "--model"),
    ("effnet predict --model=efficientnetv2-x", "efficientnetv2-xl"),
    ("effnet explain --model=mine", "mine.keras"),
    ("effnet-train prepare --on_duplicates=w", "warn"),
    ("effnet-train --recipe=dig", "digits"),
    ("effnet-tflite report my.tflite --fl", "--float"),
]
BASH = """\
source registered
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
_python_argcomplete "${1%% *}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the three programs and a file to complete."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "mine.keras").touch()
    for program, package in PACKAGES.items():
        path = folder / program
        path.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {package}.cli import main\nsys.exit(main())\n"
        )
        path.chmod(0o755)
    return folder


def _run(words, folder):
    path = os.pathsep.join([str(folder), os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.split("\t")[0].strip() for line in done.stdout.splitlines()]


def _register(program, shell, folder):
    script = argcomplete.shellcode([program], shell=shell)
    (folder / "registered").write_text(script)


@pytest.mark.parametrize(("line", "candidate"), CANDIDATES)
def test_bash_completes_commands_flags_values_and_files(line, candidate, folder):
    _register(line.split()[0], "bash", folder)
    assert _run(["bash", "-c", BASH, "bash", line], folder) == [candidate]


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish: apt-get install fish")
@pytest.mark.parametrize(("line", "candidate"), CANDIDATES[1:3])
def test_fish_completes_flags_and_values(line, candidate, folder):
    _register("effnet", "fish", folder)
    given = line.split()[-1].partition("=")[0] + "=" if "=" in line else ""
    asked = ["fish", "--no-config", "-c", f"source registered; complete -C '{line}'"]
    assert _run(asked, folder) == [given + candidate]


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh: apt-get install zsh")
def test_zsh_completes_a_command(folder):
    _register("effnet", "zsh", folder)
    typed = (
        "zmodload zsh/zpty; zpty z zsh -f -i; "
        "zpty -w z 'autoload -U compinit; compinit -u -D; source registered; PS1=ready'; "
        "zpty -r z text '*ready*ready*'; zpty -w -n z $'effnet pre\\t'; "
        "zpty -r z text '*predict*'; print completed; zpty -d z"
    )
    assert _run(["timeout", "30", "zsh", "-f", "-c", typed], folder)[-1] == "completed"


def test_bad_flags_before_the_word_do_not_print_a_traceback(folder):
    _register("effnet", "bash", folder)
    line = "effnet predict --no_such_flag=1 --mo"
    assert _run(["bash", "-c", BASH, "bash", line], folder) in ([], [""], ["--model"])
