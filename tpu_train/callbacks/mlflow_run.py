"""``--callback=mlflow``: an MLflow run. Needs the package mlflow or mlflow-skinny.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME work as usual. The run is found again by its tag
"workdir", so that a resumed run is continued.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping

import mlflow

_STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MAX_PARAMETERS = 100  # of one call


def log_to_mlflow(record: Mapping) -> None:
    """Records an event of :data:`tpu_train.callbacks.records.EVENTS` in the current MLflow run.

    MLflow cannot remove records: after a resume from an earlier checkpoint, the steps since that
    checkpoint are recorded twice, with the same values.
    """
    event, step = record["event"], record["step"]
    if event == "run_start":
        _start(record)
    elif event == "run_end":
        mlflow.set_tag("status", record["status"])
        mlflow.end_run(_STATUS[record["status"]])
    elif event in ("steps", "evaluation", "phase_end"):
        values = {k: v for k, v in record.items() if isinstance(v, numbers.Number) and k != "step"}
        mlflow.log_metrics(values, step=step)


def _start(record):
    folder = record["workdir"]
    earlier = []
    if record["resumed"]:
        earlier = mlflow.search_runs(
            filter_string=f"tags.workdir = '{folder}'", max_results=1, output_format="list"
        )
    mlflow.start_run(
        run_id=earlier[0].info.run_id if earlier else None,
        run_name=None if earlier else os.path.basename(folder),
        tags={"workdir": folder},
    )
    if not earlier:
        recipe = list(record["recipe"].items())
        for i in range(0, len(recipe), _MAX_PARAMETERS):
            mlflow.log_params(dict(recipe[i : i + _MAX_PARAMETERS]))
