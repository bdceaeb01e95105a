"""Trains the convolution of `conv_recipe`, for tests of the loop and of recovery."""

import dataclasses
import json

import keras
import pytest

from tpu_train.training import run
from tpu_train.training.distribution import make_strategy


@pytest.fixture
def train_conv(source, conv_recipe, tmp_path, monkeypatch):
    """train_conv(workdir, ...) trains without plots; its output is in `log()`.

    Evaluations give an accuracy of 0.25 and a loss of 1, which saves time, unless `evaluated`.
    """
    make_evaluation = run.make_evaluation
    monkeypatch.setattr(run, "plot_curves", lambda metrics, png: None)
    constant = {"ema": 0.25, "loss_ema": 1.0, "non_ema": 0.25, "loss_non_ema": 1.0}
    monkeypatch.setattr(run, "make_evaluation", lambda *_: lambda: dict(constant))

    def train_conv(
        workdir="run",
        *,
        data=None,
        evaluation=None,
        evaluated=False,
        device="cpu",
        changes=None,
        **options,
    ):
        if evaluated:
            monkeypatch.setattr(run, "make_evaluation", make_evaluation)
        with open(tmp_path / "log", "w") as stream:
            return run.train(
                dataclasses.replace(conv_recipe, **(changes or {})),
                data or source,
                evaluation or data or source,
                tmp_path / workdir,
                make_strategy(device),
                stream=stream,
                **{"pages": False, **options},
            )

    return train_conv


@pytest.fixture
def log(tmp_path):
    """log(): what the last training has printed."""
    return lambda: (tmp_path / "log").read_text()


@pytest.fixture
def records(tmp_path):
    """records(workdir): the records of its training steps."""

    def records(workdir="run"):
        lines = (tmp_path / workdir / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if "loss" in r]

    return records


@pytest.fixture
def exported_weights():
    """exported_weights(result): the arrays of the exported model."""
    return lambda result: keras.saving.load_model(result.model_path, compile=False).get_weights()


@pytest.fixture
def stop_at():
    """stop_at(call, ...): a `stop` function with a reason at these calls; 0 is before step 0."""

    def stop_at(*calls):
        count = iter(range(1_000_000))
        return lambda: "test" if next(count) in calls else ""

    return stop_at
