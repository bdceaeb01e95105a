"""What all phases of a run share, and what has happened in it so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from tpu_train.checkpointing.manager import CheckpointManager
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.recipes.phases import Phase
from tpu_train.recipes.schema import Recipe
from tpu_train.training.metrics_writer import MetricsWriter
from tpu_train.training.profiler import Profiler
from tpu_train.training.step import TrainState
from tpu_train.training.teacher import Teacher


@dataclass(frozen=True)
class RunContext:
    """What all phases of a run share."""

    recipe: Recipe
    phases: tuple[Phase, ...]
    training: ImageSource
    strategy: tf.distribute.Strategy
    model: keras.Model
    state: TrainState
    class_weights: np.ndarray | None
    teacher: Teacher | None  # of distillation
    # see make_evaluation; models "ema" and "non_ema". None without evaluation images
    evaluate: Callable[[], dict[str, float]] | None
    eval_epochs: float  # between evaluations; 0: only at the end of each phase
    rate_factor: tf.Variable | None  # of the learning rate, by plateaus; None for other schedules
    metrics: MetricsWriter
    profiler: Profiler
    checkpoints: CheckpointManager
    on_nan: str  # one of recovery.ON_NAN
    stop: Callable[[], str]  # the reason to stop now, or ""
    on_improvement: Callable[[], object]  # called after the best evaluation so far


@dataclass(frozen=True)
class PhaseResult:
    """Duration and results of one phase; accuracies in [0, 1], on the evaluation images.

    Accuracies are None without evaluation images.
    """

    number: int
    image_size: int
    steps: int
    seconds: float
    loss: float  # mean over the training steps of the last host call
    accuracy: float | None  # of the EMA weights
    accuracy_non_ema: float | None


@dataclass
class TrainingHistory:
    """What has happened so far, beside the values of variables; saved with each checkpoint."""

    phases: list[PhaseResult] = field(default_factory=list)  # finished ones
    evaluations: list[dict] = field(default_factory=list)  # {"step", "ema", "non_ema", ...}
    skipped_steps: list[list[int]] = field(default_factory=list)  # [first, end), by rollback
    accumulation: int = 1  # minimum gradient-accumulation steps: raised when memory was exhausted
    training_seconds: float = 0.0  # without evaluations, saving and tracing of phases

    def to_json(self) -> dict:
        """The history as values that JSON represents exactly."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping) -> TrainingHistory:
        """The history that :meth:`to_json` has written."""
        return cls(**{**value, "phases": [PhaseResult(**phase) for phase in value["phases"]]})
