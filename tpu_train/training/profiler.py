"""Profile of a range of training steps, for TensorBoard."""

from __future__ import annotations

import tensorflow as tf


def check_profile(steps: tuple[int, int] | None, total: int) -> None:
    """Raises ``ValueError`` if the steps to profile begin after all steps of the run."""
    if steps is not None and steps[0] >= total:
        raise ValueError(f"profile {steps[0]}:{steps[1]} begins after the run's {total} steps")


class Profiler:
    """Profiles steps [first, end) into a folder, which TensorBoard's profile plugin shows.

    Args:
        folder: of the TensorBoard events; the profile is in its ``plugins/profile``.
        steps: (first, end), or None for no profile.
    """

    def __init__(self, folder: str, steps: tuple[int, int] | None = None):
        self.folder, self.steps, self.active = folder, steps, False

    def limit(self, step: int, steps: int) -> int:
        """At most `steps` from `step` on, such that none lies on both sides of the range's ends."""
        ends = [end - step for end in self.steps or () if end > step]
        return min(steps, *ends) if ends else steps

    def update(self, step: int) -> None:
        """Starts or stops the profile before `step` is trained."""
        inside = self.steps is not None and self.steps[0] <= step < self.steps[1]
        if inside and not self.active:
            tf.profiler.experimental.start(self.folder)
        elif self.active and not inside:
            tf.profiler.experimental.stop()
        self.active = inside

    def close(self) -> None:
        """Stops the profile, if a run ends within the range."""
        if self.active:
            tf.profiler.experimental.stop()
            self.active = False
