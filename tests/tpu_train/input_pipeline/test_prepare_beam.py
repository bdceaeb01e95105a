"""Shards written by Apache Beam, in the environment of `make .venv/beam`."""

import pathlib
import subprocess

import pytest

from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, write_shards

ROOT = pathlib.Path(__file__).parents[3]
PYTHON = ROOT / ".venv-beam" / "bin" / "python"


@pytest.mark.slow  # starts an interpreter
@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-beam: requirements/optional.sh beam")
def test_beam_writes_the_bytes_of_one_process(pictures, tmp_path):
    write_shards(pictures, tmp_path / "one", WriterOptions(shard_count=3))
    command = [PYTHON, "-m", "tpu_train.cli.prepare", f"--data={pictures}", "--shards=3"]
    command += [f"--out={tmp_path / 'beam'}", "--runner=DirectRunner"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, beam = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "beam")
    )
    assert one == beam


def test_a_runner_without_beam_or_with_workers_is_an_error(pictures, tmp_path, monkeypatch):
    both = WriterOptions(runner="DirectRunner", workers=2)
    with pytest.raises(ValueError, match="give --workers or --runner"):
        write_shards(pictures, tmp_path / "out", both)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs Apache Beam: pip install apache-beam"):
        write_shards(pictures, tmp_path / "out", WriterOptions(runner="DirectRunner"))
    assert not (tmp_path / "out").exists()
