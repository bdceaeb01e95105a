"""Hosts that share the work of labeling through a folder that all of them see."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Hosts:
    """This host among those that work together."""

    number: int = 0  # of this one, from 0
    count: int = 1
    wait_seconds: float = 1800.0  # for files of the others

    @property
    def is_chief(self) -> bool:
        """Whether this host writes what is written once."""
        return self.number == 0

    def owns(self, part: int) -> bool:
        """Whether a part of the work is this host's.

        >>> [part for part in range(5) if Hosts(number=1, count=2).owns(part)]
        [1, 3]
        """
        return part % self.count == self.number


def hosts_of_environment(wait_seconds: float) -> Hosts:
    """The :class:`Hosts` of ``TF_CONFIG``: its chief and workers; one host without it.

    Raises ``ValueError`` for a task that is not in the cluster.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return Hosts(wait_seconds=wait_seconds)
    config = json.loads(text)
    cluster, task = config.get("cluster", {}), config.get("task", {})
    jobs = [(job, i) for job in ("chief", "worker") for i in range(len(cluster.get(job, ())))]
    if not jobs:
        return Hosts(wait_seconds=wait_seconds)
    own = task.get("type", "worker"), int(task.get("index", 0))
    if own not in jobs:
        raise ValueError(
            f"the task of TF_CONFIG is {task}, no chief or worker of its cluster: set task to one "
            "of them, or unset TF_CONFIG to label on this machine alone"
        )
    return Hosts(jobs.index(own), len(jobs), wait_seconds)
