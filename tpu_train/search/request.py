"""What a search is asked to do, in values that another process can receive. No TensorFlow."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tpu_train.search.settings import SearchSettings

JOURNAL = "journal.log"


@dataclass(frozen=True)
class SearchRequest:
    """A study, where it is, and how one worker works on it."""

    settings: SearchSettings
    data: str
    workdir: str  # local, or on a disk that all workers share
    trials: int  # of the study, all workers together
    storage: str = ""  # URL of a database; "": a journal file in `workdir`
    study: str = "search"  # name of the study in the storage
    cache: str = ""  # folder of results that studies share; "": none
    device: str = "auto"
    holdout: float = 0.2  # images of data without evaluation split that no trial sees
    max_corrupt: int = 10
    on_duplicates: str = "warn"
    save_minutes: float = 2.0
    workers: int = 1

    @property
    def storage_location(self) -> str:
        """The database's URL, or the path of the journal file."""
        return self.storage or os.path.join(self.workdir, JOURNAL)

    def trial_folder(self, number: int) -> str:
        """The folder of a trial: its network, its log, its metrics and, meanwhile, checkpoints."""
        return os.path.join(self.workdir, "trials", f"{number:05d}")
