"""The records of a run, and the calls of its callback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.imported_function import describe

# event -> what its record contains, beside "event" and "step" (steps that are finished)
EVENTS = {
    "run_start": "workdir (absolute path), recipe (dict) and phases (list of dicts), classes "
    "(names), training_images, evaluation_images, devices (text), resumed (bool)",
    "phase_start": "phase (number from 1), phases, image_size, batch_size, end_step",
    "steps": "phase, image_size, learning_rate, loss, accuracy, gradient_norm, images_per_second, "
    "input_wait (fraction of the time in which no step ran for want of images): means over the "
    "steps of a host call (--steps_per_loop)",
    "evaluation": "phase, image_size, evaluation_accuracy_ema, evaluation_accuracy_non_ema, "
    "training_seconds, and other figures of the evaluation images",
    "phase_end": "phase, image_size, seconds",
    "checkpoint": "folder: of the checkpoints, the newest of which is of this step",
    "rollback": "the run continues after this step: records of later steps are void",
    "run_end": "status: complete, stopped (the same command resumes) or failed; message",
}


class CallbackError(RuntimeError):
    """The callback has raised an exception; the message names the callback and the exception."""


class Callback:
    """Calls a function with the records of a run; does nothing without one.

    Args:
        function: takes one record.
        name: of the function, for messages.
    """

    def __init__(self, function: Callable[[dict], object] | None = None, name: str = ""):
        self.function, self.name = function, name

    def __call__(self, event: str, step: int, values: Mapping) -> None:
        """Calls the function; :class:`CallbackError` if it raises an exception.

        It is not called again after that.

        >>> Callback(print)("checkpoint", 100, {"folder": "run1/checkpoints"})
        {'event': 'checkpoint', 'step': 100, 'folder': 'run1/checkpoints'}
        """
        if self.function is None:
            return
        try:
            self.function({"event": event, "step": step, **values})
        except (Exception, SystemExit) as error:
            self.function = None
            raise CallbackError(
                f"the callback {self.name} failed at {event} of step {step}: {describe(error)}. "
                "The last checkpoint is kept, and the same command resumes the run: correct the "
                "callback, or leave --callback out"
            ) from error


@contextlib.contextmanager
def end_reported(callback: Callback, step: Callable[[], int]) -> Iterator[None]:
    """Calls the callback with "run_end" when the block ends; `step` returns the latest step."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, StoppedError)
        message = str(error) if stopped else describe(error)
        with contextlib.suppress(CallbackError):  # the error in the block is raised
            status = "stopped" if stopped else "failed"
            callback("run_end", step(), {"status": status, "message": message})
        raise
    callback("run_end", step(), {"status": "complete", "message": ""})
