"""Hosts that share the work of labeling through a folder that all of them see."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tpu_train.tf_config import read_cluster


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

    Raises ``ValueError`` as :func:`~tpu_train.tf_config.read_cluster` does.
    """
    cluster = read_cluster(os.environ.get("TF_CONFIG", ""))
    if cluster is None:
        return Hosts(wait_seconds=wait_seconds)
    tasks = list(cluster.addresses)
    return Hosts(tasks.index(cluster.task), len(tasks), wait_seconds)
