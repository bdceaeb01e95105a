"""The records of a short run, which is then resumed."""

import pytest

_START = {
    "event": "run_start",
    "step": 0,
    "workdir": "/runs/flowers",
    "recipe": {"name": "photos", "learning_rate": 0.1, "weights": "", "batch_size": 8},
    "phases": [{"number": 1}],
    "classes": ["daisy", "tulip"],
    "training_images": 16,
    "evaluation_images": 4,
    "devices": "1 replica on CPU",
    "resumed": False,
}


def _steps(step):
    return {"event": "steps", "step": step, "phase": 1, "loss": 1 / step, "accuracy": 0.5}


@pytest.fixture
def first_run():
    """The records of a run that is stopped after step 4, with a checkpoint of step 2."""
    return [
        _START,
        {"event": "phase_start", "step": 0, "phase": 1, "phases": 1, "end_step": 6},
        _steps(2),
        {"event": "checkpoint", "step": 2, "folder": "/runs/flowers/checkpoints"},
        _steps(4),
        {"event": "run_end", "step": 4, "status": "stopped", "message": "SIGTERM"},
    ]


@pytest.fixture
def second_run():
    """The records of the same run, resumed after step 2."""
    return [
        {**_START, "step": 2, "resumed": True},
        _steps(4),
        _steps(6),
        {"event": "evaluation", "step": 6, "phase": 1, "evaluation_accuracy_ema": 0.75},
        {"event": "run_end", "step": 6, "status": "complete", "message": ""},
    ]
