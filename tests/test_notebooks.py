"""The notebooks run, and are committed without outputs."""

import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter
def test_the_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_EFFNET_SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this checkout, whatever is installed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert (tmp_path / "quickstart" / "model_int8.tflite").stat().st_size > 5e6
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "agreement" in text


def test_the_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    assert "colab-badge.svg" in notebook.cells[0].source


def test_the_notebook_keeps_colabs_tensorflow(path):
    notebook = nbformat.read(path, as_version=4)
    installs = [cell.source for cell in notebook.cells if "%pip install" in cell.source]
    assert installs
    assert all("--no-deps git+" in source for source in installs)
