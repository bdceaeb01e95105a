"""When a run saves itself, and from where it goes on. No TensorFlow."""

import dataclasses
import hashlib
import time

from tpu_train import checkpoints


class StoppedError(RuntimeError):
    """A run that was asked to stop, saved itself, and goes on when it is started again."""


class Saves:
    """When a run is saved, and what a checkpoint of it is."""

    def __init__(self, folder, run, minutes, stop, writes):
        self.folder, self.run, self.minutes = folder, run, minutes
        self.stop, self.writes = stop, writes  # `writes`: the others read their share in vain
        self.last = time.monotonic()

    def find(self):
        """The newest whole checkpoint, or None; raises ``ValueError`` if it is of another run."""
        found = checkpoints.latest(self.folder)
        if found is None:
            return None
        theirs = found.notes["run"]
        changed = [
            f"{key} {theirs.get(key)!r}, now {value!r}"
            for key, value in self.run.items()
            if theirs.get(key) != value
        ]
        if changed:
            raise ValueError(
                f"{self.folder} is of another run ({'; '.join(changed)}): go on with the same "
                "flags and data, choose another workdir, or give --overwrite to start anew"
            )
        return found

    def at(self, step, state, results, progress, *, phase_is_over):
        """Saves if it is time; raises :class:`StoppedError` if the run is asked to stop."""
        stops = self.stop()
        if not (stops or phase_is_over or time.monotonic() - self.last > 60 * self.minutes):
            return
        values = [variable.numpy() for variable in state.variables]  # all workers take part
        if self.writes:
            notes = {"run": self.run, "phases": [dataclasses.asdict(r) for r in results]}
            try:
                checkpoints.save(self.folder, checkpoints.Checkpoint(step, values, notes))
            except OSError as error:
                if stops:
                    raise
                progress.say(f"not saved at step {step}: {error}. The one before is kept")
        self.last = time.monotonic()
        if stops:
            raise StoppedError(
                f"Stopped after step {step}. The same command goes on there ({self.folder})"
            )


def identity(recipe, training, evaluation):
    """What must be the same for a run to go on."""
    data = hashlib.sha256(training.labels.tobytes() + evaluation.labels.tobytes()).hexdigest()
    return {
        **dataclasses.asdict(recipe),
        "classes": list(training.classes),
        "training_images": training.examples,
        "labels_sha256": data,
    }
