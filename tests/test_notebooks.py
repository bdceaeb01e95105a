"""The notebooks run, and their stored outputs are those of their code."""

import copy
import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
run_notebooks = pytest.importorskip("tools.run_notebooks")

MAX_BYTES = 1.5e6  # GitHub does not show larger notebooks reliably
# What a run writes and prints.
RESULTS = {
    "1_predict_and_explain": ("", "scaled-twice"),
    "2_fine_tune_your_photos": ("report/evaluation.html", "top-1"),
    "3_train_on_tpu": ("run/model.keras", "status: 75"),
    "4_to_android": ("my.tflite.html", "class names in the file: 1000"),
    "5_search": ("best.tflite.html", "best network: trial"),
    "quickstart": ("quickstart/model_int8.tflite", "agreement"),
}
WITHOUT_OUTPUTS = ()  # notebooks whose outputs are not stored yet
STORED = [path for path in run_notebooks.NOTEBOOKS if path.stem not in WITHOUT_OUTPUTS]
every_notebook = pytest.mark.parametrize("path", run_notebooks.NOTEBOOKS, ids=lambda p: p.stem)
every_stored_notebook = pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(cell):
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/html", "")
        for output in cell.get("outputs", [])
    )


def _pictures(cell):
    """The kinds of pictures and pages that a cell shows."""
    kinds = [kind for output in cell.outputs for kind in output.get("data", {})]
    return [kind for kind in kinds if kind.startswith("image/") or kind == "text/html"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter
@every_notebook
def test_the_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    notebook = nbformat.read(path, as_version=4)
    stored = [_pictures(cell) for cell in _code(notebook)]
    run_notebooks.execute(notebook, tmp_path, small=True)
    if path in STORED:
        assert [_pictures(cell) for cell in _code(notebook)] == stored
    file, words = RESULTS[path.stem]
    assert (tmp_path / file).exists()
    assert any(words in _text(cell) for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter
def test_a_notebook_starts_with_an_empty_cache(tmp_path):
    code = "import os\nprint(os.environ['KERAS_HOME'])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    run_notebooks.execute(notebook, tmp_path)
    assert _text(notebook.cells[0]) == ".keras\n"


@every_stored_notebook
def test_stored_outputs_are_those_of_the_code(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stored = notebook.metadata.get(run_notebooks.DIGEST)
    assert stored == run_notebooks.code_digest(notebook), (
        f"the code changed: python tools/run_notebooks.py {path.stem}"
    )
    assert path.stat().st_size < MAX_BYTES
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    for local in (
        str(run_notebooks.ROOT),
        str(pathlib.Path.home() / "."),
        "/tmp/",
        "site-packages",
    ):
        assert local not in str(outputs)


def test_the_notebooks_without_outputs_have_none():
    for path in set(run_notebooks.NOTEBOOKS) - set(STORED):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in _code(notebook) if cell.outputs]


def test_changed_code_makes_outputs_stale_and_changed_text_does_not():
    notebook = nbformat.read(run_notebooks.NOTEBOOKS[0], as_version=4)
    digest = run_notebooks.code_digest(notebook)
    changed = copy.deepcopy(notebook)
    changed.cells[0].source += "\nmore"
    assert run_notebooks.code_digest(changed) == digest
    _code(changed)[-1].source += "\nmore"
    assert run_notebooks.code_digest(changed) != digest


def test_stored_text_is_what_a_terminal_shows_in_the_end():
    text = "\x1b[1m 50%\r100%\r\nwrote /folder/run/model.keras\n"
    output = nbformat.v4.new_output("stream", text=text)
    stored = run_notebooks.stored_output(output, 1, "/folder")
    assert stored.text == "100%\nwrote run/model.keras\n"


def test_an_unknown_notebook_is_rejected(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_notebooks.main(["quickstrat"])
    assert "quickstart" in capsys.readouterr().err


@every_stored_notebook
def test_every_second_code_cell_shows_something(path):
    notebook = nbformat.read(path, as_version=4)
    cells = _code(notebook)[1:]  # without the installation
    shown = [bool(_pictures(cell)) or _text(cell).count("\n") > 2 for cell in cells]
    for first, second, cell in zip(shown, shown[1:], cells[1:]):
        assert first or second, f"neither this cell nor the one before:\n{cell.source}"


@every_notebook
def test_the_notebook_opens_in_colab_and_keeps_its_tensorflow(path):
    notebook = nbformat.read(path, as_version=4)
    assert "colab-badge.svg" in notebook.cells[0].source
    assert f"/blob/main/notebooks/{path.name})" in notebook.cells[0].source
    installs = [cell.source for cell in notebook.cells if "%pip" in cell.source]
    assert len(installs) == 1
    assert "--no-deps git+" in installs[0]
    lines = [line for line in installs[0].splitlines() if "tensorflow" in line]
    # Only the TPU runtime of Colab comes without TensorFlow.
    assert lines[:1] in ([], ['    if importlib.util.find_spec("tensorflow") is None:'])
