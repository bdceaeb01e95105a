"""``--callback=wandb``: a Weights & Biases run. Needs the package wandb.

The run's id follows from the work directory, so that a resumed run is continued. WANDB_PROJECT,
WANDB_MODE=offline and the other variables of wandb work as usual.
"""

from __future__ import annotations

import hashlib
import numbers
import os
from collections.abc import Mapping

import wandb


def log_to_wandb(record: Mapping) -> None:
    """Records an event of :data:`tpu_train.callbacks.records.EVENTS` in the current wandb run.

    Curves are drawn over "step". wandb cannot remove records: after a resume from an earlier
    checkpoint, the steps since that checkpoint are recorded twice, with the same values.
    """
    event, step = record["event"], record["step"]
    if event == "run_start":
        folder = record["workdir"]
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", "keras_effnet"),
            name=os.path.basename(folder),
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            resume="allow",
            config={**record["recipe"], "classes": list(record["classes"])},
        )
        wandb.define_metric("step")
        wandb.define_metric("*", step_metric="step")
    elif event == "run_end":
        wandb.run.summary["status"] = record["status"]
        wandb.finish(exit_code=int(record["status"] == "failed"))
    elif event in ("steps", "evaluation", "phase_end"):
        values = {k: v for k, v in record.items() if isinstance(v, numbers.Number)}
        wandb.log({**values, "step": step})
