import json
import struct

import pytest

pytest.importorskip("wandb")

import wandb

from tpu_train.callbacks.wandb_run import log_to_wandb


def _messages(path):
    """The records in a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.mark.slow
def test_a_resumed_run_has_one_id_and_its_steps_in_wandb(
    first_run, second_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids, steps, configs = set(), [], []
    for records in (first_run, second_run):
        for record in records:
            log_to_wandb(record)
    wandb.teardown()  # its process writes the rest of the files; finish() does not wait for that
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for record in _messages(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                configs.append({i.key: json.loads(i.value_json) for i in record.run.config.update})
            if kind == "history":
                items = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                steps.append((items["step"], items.get("loss")))
    assert len(ids) == 1
    assert configs[0]["learning_rate"] == 0.1
    assert steps == [(2, 0.5), (4, 0.25), (4, 0.25), (6, pytest.approx(1 / 6)), (6, None)]
