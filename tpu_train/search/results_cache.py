"""Results of trainings that several studies share: equal networks, recipe and data train once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

from keras_effnet.atomic_write import write_files
from tpu_train.search.trial_record import TrialRecord

# of a study's identity, what a result does not depend on
_IRRELEVANT = (
    *("sampler", "sampler_seed", "population", "parallel_trials", "pruner"),
    *("step_time_exponent", "parameters_exponent", "max_parameters", "max_flops"),
)


class ResultsCache:
    """A folder of results. Without a folder, nothing is found and nothing is stored.

    Args:
        folder: where the results are; "" for none.
        identity: of the study (:meth:`~tpu_train.search.settings.SearchSettings.identity`).
        device: of the step times.
    """

    def __init__(self, folder: str, identity: Mapping, device: str):
        self._folder = folder
        self._training = {k: v for k, v in identity.items() if k not in _IRRELEVANT}
        self._training["device"] = device

    def read(self, network_key: str) -> dict:
        """{"accuracies": {phase: accuracy}, "step_time"} of a network, or {}.

        `network_key` is the search space's.
        """
        if not self._folder:
            return {}
        try:
            with open(self._path(network_key), encoding="utf-8") as file:
                content = json.load(file)
            return {
                "accuracies": {int(n): float(a) for n, a in content["accuracies"].items()},
                "step_time": float(content["step_time"]),
            }
        # none, or damaged: it is written again
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def write(self, network_key: str, record: TrialRecord) -> None:
        """Stores the result of a complete trial."""
        if not self._folder:
            return
        os.makedirs(self._folder, exist_ok=True)
        content = {
            "blocks": record.blocks,
            "accuracies": record.accuracies,
            "step_time": record.step_time,
            "training": self._training,
        }
        write_files({self._path(network_key): json.dumps(content, indent=1).encode()})

    def _path(self, network_key):
        key = json.dumps([self._training, network_key], sort_keys=True).encode()
        return os.path.join(self._folder, f"{hashlib.sha256(key).hexdigest()[:32]}.json")
