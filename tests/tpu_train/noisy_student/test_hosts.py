"""Which host this is, by TF_CONFIG."""

import json

import pytest

from tpu_train.noisy_student.hosts import hosts_of_environment

CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (0, 1)),
        ({}, (0, 1)),
        ({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}, (0, 3)),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": "1"}}, (2, 3)),
        ({"cluster": {"worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}, (0, 1)),
    ],
)
def test_hosts_are_the_chief_and_the_workers(monkeypatch, config, expected):
    monkeypatch.setenv("TF_CONFIG", "" if config is None else json.dumps(config))
    hosts = hosts_of_environment(60)
    assert (hosts.number, hosts.count) == expected


def test_a_task_outside_the_cluster_is_an_error(monkeypatch):
    config = {"cluster": CLUSTER, "task": {"type": "evaluator", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match="task type 'evaluator' has no address in the cluster"):
        hosts_of_environment(60)
