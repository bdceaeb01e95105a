"""Executes the notebooks and stores their outputs: ``python tools/run_notebooks.py [NAME ...]``.

Each notebook runs in an empty folder, with this checkout and this Python. What it prints and draws
is stored in the file, with a digest of its code, by which tests/test_notebooks.py finds outputs of
code that has changed since. If a cell fails, the file stays as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat

from keras_effnet.atomic_write import write_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DIGEST = "executed_code_sha256"  # in the metadata of a notebook
# The first cell of a short run. Our commands then run in the notebook's process: a process of its
# own would take 5 s of processor time to import TensorFlow.
_COMMANDS_IN_PROCESS = """
import importlib
import shlex

_modules = {
    "effnet": "keras_effnet.cli",
    "effnet-train": "tpu_train.cli",
    "effnet-tflite": "tflite.cli",
}
_system = get_ipython().system

def _run(command):
    command = get_ipython().var_expand(command)
    program, *words = shlex.split(command)
    if program not in _modules:
        return _system(command)
    status = importlib.import_module(_modules[program]).main(words)
    assert not status, f"{command}: status {status}"

get_ipython().system = _run
"""


def code_digest(notebook) -> str:
    """SHA-256 of the code cells, in hexadecimal."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def execute(notebook, folder, *, small: bool = False):
    """Executes a notebook in `folder`, and fills in its outputs; returns the notebook.

    `small` selects the short run of the tests: the notebook reads ``KERAS_EFFNET_SMALL``. Raises
    ``nbclient.exceptions.CellExecutionError`` if a cell fails.
    """
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([os.path.join(sys.prefix, "bin"), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "KERAS_EFFNET_SMALL": "1" if small else "",
        "KERAS_HOME": os.path.join(folder, ".keras"),  # empty, so that runs print the same
    }
    if small:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(_COMMANDS_IN_PROCESS))
    try:
        nbclient.NotebookClient(
            notebook,
            timeout=3600,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        ).execute(env=environment)
    finally:
        if small:
            del notebook.cells[0]
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        cell.outputs = [stored_output(o, number, str(folder)) for o in _joined(cell.outputs)]
    notebook.metadata[DIGEST] = code_digest(notebook)
    return notebook


def stored_output(output, number, folder):
    """An output as it is stored: text as a terminal shows it in the end, and no local paths."""
    if "execution_count" in output:
        output.execution_count = number
    if output.output_type == "stream":
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.text).replace("\r\n", "\n")
        text = re.sub(r"[^\n]*\r", "", text)  # overwritten by the rest of the line
        output.text = _without_paths(text, folder)
    data = output.get("data", {})
    for kind in data:
        if kind.startswith("text/"):
            data[kind] = _without_paths(data[kind], folder)
    return output


def _joined(outputs):
    """Outputs with consecutive pieces of the same stream as one."""
    joined = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _without_paths(text, folder):
    for path in (folder, str(ROOT), sys.prefix):
        text = text.replace(f"{path}/", "")
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/[^\s/]+/", "", text)  # TensorFlow's own


def main(argv=None):
    """Executes the named notebooks, or all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [path.stem for path in NOTEBOOKS]
    parser.add_argument("notebook", nargs="*", help=f"default: all of {', '.join(names)}")
    chosen = parser.parse_args(argv).notebook or names
    for name in chosen:
        if name not in names:
            parser.error(f"notebook {name!r} does not exist: choose from {', '.join(names)}")
    for name in chosen:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(nbformat.read(path, as_version=4), folder)
        text = nbformat.writes(notebook) + "\n"
        write_files({str(path): text.encode()})
        print(f"{path.name}: {len(text) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
