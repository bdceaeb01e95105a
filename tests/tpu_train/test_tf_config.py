import json

import pytest

from tpu_train.cli import main
from tpu_train.tf_config import read_cluster

WORKERS = {"worker": ["a:1", "b:1"]}


def written(cluster=WORKERS, **task):
    return json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})


def test_the_chief_is_first_and_the_other_tasks_are_named():
    cluster = {"worker": ["a:1", "[::1]:65535"], "chief": ["c:1"], "ps": ["d:1"]}
    read = read_cluster(written(cluster, type="worker", index="1"))
    assert list(read.addresses) == ["chief 0", "worker 0", "worker 1"]
    assert (read.task, read.address) == ("worker 1", "[::1]:65535")
    assert read.others == {"chief 0": "c:1", "worker 0": "a:1"}


_BAD = [
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("3", "is JSON of type int"),
    (written({"worker": {"0": "a:1"}}, type="worker", index=0), "has the cluster"),
    (written({"worker": None}, type="worker", index=0), "has the cluster"),
    (json.dumps({"cluster": WORKERS}), "has no task"),
    (json.dumps({"cluster": WORKERS, "task": None}), "has the task None"),
    (written(index=0), "task type None has no address"),
    (written(type="worker"), "task index None is out of range"),
    (written(type="worker", index=2), "task index 2 is out of range for 2 tasks"),
    (written(type="worker", index=-1), "task index -1 is out of range"),
    (written(type="worker", index="x"), "task index 'x' is out of range"),
    (written(type="worker", index=1.0), "task index 1.0 is out of range"),
    (written(type="chief", index=0), "task type 'chief' has no address"),
    (written(type=["worker"], index=0), "has no address"),
    (written({"chief": ["a:1", "b:1"]}, type="chief", index=0), "has 2 chiefs"),
    (written({"worker": ["a:1", "a:1"]}, type="worker", index=0), "contains a:1 twice"),
    (written({"chief": ["a:1"], "worker": ["a:1"]}, type="chief", index=0), "contains a:1 twice"),
    *(
        (written({"worker": ["b:1", address]}, type="worker", index=0), "is not an address")
        for address in ("a", "a:", ":1", "a:x", "a:0", "a:65536", "grpc://a:1", "a :1", "", 7)
    ),
]


@pytest.mark.parametrize(("text", "message"), _BAD)
def test_a_bad_cluster_is_one_line_before_anything_slow(
    text, message, monkeypatch, capsys, tmp_path
):
    with pytest.raises(ValueError, match="TF_CONFIG") as error:
        read_cluster(text)
    assert message in str(error.value)
    monkeypatch.setenv("TF_CONFIG", text)
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    assert main([f"--data={data}", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [data]


def test_a_cluster_that_a_device_does_not_use_is_not_read(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TF_CONFIG", "{")
    (tmp_path / "cat").mkdir()
    line = [f"--data={tmp_path}", f"--workdir={tmp_path}-run", "--model=nowhere:net"]
    assert main([*line, "--device=cpu"]) == 2
    assert "there is no module 'nowhere'" in capsys.readouterr().err
