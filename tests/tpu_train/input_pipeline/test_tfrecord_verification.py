import pytest

from tpu_train.cli.prepare import main
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.input_pipeline.tfrecord_verification import verify_shards
from tpu_train.input_pipeline.tfrecord_writer import WriterOptions, write_shards


def test_verification_names_changed_and_damaged_shards(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    write_shards(pictures, out, WriterOptions(shard_count=2))
    assert main(["--check", f"--data={out}"]) == 0
    assert "24 images in 3 shards decoded, checksums verified: no problems" in (
        capsys.readouterr().out
    )
    path = out / "train-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["--check", f"--data={out}"]) == 1
    out_text = capsys.readouterr().out
    assert f"{path} was changed after it was written: its SHA-256 differs" in out_text
    assert f"{path} is truncated or damaged" in out_text
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"bytes, but index\.jsonl has"):
        open_data(out, holdout=0.2, seed=0)


def test_verification_without_shards_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"has no shards .* to verify"):
        verify_shards(tmp_path)


def test_verification_without_an_index_decodes_every_image(pictures, tmp_path):
    write_shards(pictures, tmp_path / "out")
    (tmp_path / "out" / "index.jsonl").unlink()
    result = verify_shards(tmp_path / "out")
    assert (result.images, result.shards, result.has_index, result.problems) == (24, 2, False, ())
