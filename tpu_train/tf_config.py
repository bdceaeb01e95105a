"""The cluster in ``TF_CONFIG``: the workers that train together, and which of them this one is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

_FORM = (
    '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}; or '
    "unset it to use this machine alone"
)


@dataclass(frozen=True)
class Cluster:
    """Tasks that work together; a task is e.g. "worker 0"."""

    addresses: Mapping[str, str]  # of every task; the chief's first
    task: str  # this one

    @property
    def address(self) -> str:
        """The address of this task."""
        return self.addresses[self.task]

    @property
    def others(self) -> dict[str, str]:
        """The addresses of all other tasks."""
        return {task: address for task, address in self.addresses.items() if task != self.task}


def read_cluster(tf_config: str) -> Cluster | None:
    """The :class:`Cluster` of a ``TF_CONFIG``; None without one, for a machine alone.

    Raises ``ValueError`` for text that TensorFlow cannot read or would wait for without end.

    >>> read_cluster('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    Cluster(addresses={'worker 0': 'a:1'}, task='worker 0')
    """
    if not tf_config:
        return None
    try:
        config = json.loads(tf_config)
    except (ValueError, RecursionError) as error:
        raise _error(f"TF_CONFIG is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise _error(f"TF_CONFIG is JSON of type {type(config).__name__}")
    jobs, task = config.get("cluster", {}), config.get("task", {})
    if not isinstance(jobs, dict) or not all(isinstance(job, list) for job in jobs.values()):
        raise _error(f"TF_CONFIG has the cluster {jobs!r}")
    if not isinstance(task, dict):
        raise _error(f"TF_CONFIG has the task {task!r}")
    jobs = {name: jobs[name] for name in ("chief", "worker") if jobs.get(name)}
    if not jobs:
        return None
    _check_addresses([address for job in jobs.values() for address in job])
    if len(jobs.get("chief", ())) > 1:
        raise _error(f"TF_CONFIG has {len(jobs['chief'])} chiefs, and a cluster has one at most")
    return Cluster(
        {f"{name} {i}": address for name, job in jobs.items() for i, address in enumerate(job)},
        _task(jobs, task),
    )


def _check_addresses(addresses):
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        is_address = host and "/" not in host and not set(str(address)) & set(" \t\r\n,")
        if not (is_address and port.isdecimal() and 0 < int(port) < 65536):
            raise _error(f"TF_CONFIG: {address!r} is not an address like 10.0.0.1:2222")
        if addresses.count(address) > 1:
            raise _error(
                f"TF_CONFIG contains {address} twice, and the addresses of tasks must be unique"
            )


def _task(jobs, task):
    if not task:
        raise _error("TF_CONFIG has no task, which says which worker this is")
    kind, index = task.get("type"), task.get("index")
    if str(kind) not in jobs:
        raise _error(f"TF_CONFIG: task type {kind!r} has no address in the cluster")
    count = len(jobs[kind])
    if not str(index).isdecimal() or int(index) >= count:
        raise _error(
            f"TF_CONFIG: task index {index!r} is out of range for {count} tasks of type {kind}, "
            f"0 to {count - 1}"
        )
    return f"{kind} {int(index)}"


def _error(problem):
    return ValueError(f"{problem}: give {_FORM}")
