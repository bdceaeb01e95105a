import glob
import io
import json
from collections import Counter

import pytest
import tensorflow as tf

from tpu_train.callbacks.records import EVENTS, Callback, CallbackError
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


class Recorder:
    """A callback that keeps its records, as JSON, and fails at a given event and step."""

    def __init__(self, fail_at=None):
        self.records, self.fail_at = [], fail_at

    def __call__(self, record):
        self.records.append(json.loads(json.dumps(record)))
        if (record["event"], record["step"]) == self.fail_at:
            raise KeyError("no such metric")


def scalars(workdir):
    """Counts of (tag, step) in all event files of a run."""
    return Counter(
        (value.tag, event.step)
        for path in glob.glob(str(workdir / "tensorboard" / "*.tfevents.*"))
        for event in tf.compat.v1.train.summary_iterator(path)
        for value in event.summary.value
    )


@pytest.mark.slow
def test_a_failed_callback_keeps_the_checkpoint_and_curves_resume(conv_recipe, source, tmp_path):
    def run(recorder, **options):
        callback = Callback(recorder, "my_file:log")
        strategy = make_strategy("cpu")
        train(
            conv_recipe,
            source,
            source,
            tmp_path / "run",
            strategy,
            stream=io.StringIO(),
            callback=callback,
            **options,
        )

    first = Recorder(fail_at=("steps", 9))  # the last checkpoint is that of step 6
    with pytest.raises(CallbackError, match=r"my_file:log failed at steps of step 9: KeyError.*"):
        run(first, profile=(4, 5))
    assert [(r["event"], r["step"]) for r in first.records] == [
        ("run_start", 0),
        ("checkpoint", 0),
        ("phase_start", 0),
        *(("steps", step) for step in (3, 4, 5, 6)),  # the profile divides a host call
        ("evaluation", 6),
        ("phase_end", 6),
        ("checkpoint", 6),
        ("phase_start", 6),
        ("steps", 9),
    ]
    assert list((tmp_path / "run" / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert scalars(tmp_path / "run")["loss", 9] == 1
    second = Recorder()
    run(second)
    counts = scalars(tmp_path / "run")
    assert {step for tag, step in counts if tag == "loss"} == {3, 4, 5, 6, 9, 12}
    assert set(counts.values()) == {1}
    assert second.records[0]["resumed"]
    assert second.records[0]["recipe"]["name"] == "conv"
    assert second.records[-1] == {
        "event": "run_end",
        "step": 12,
        "status": "complete",
        "message": "",
    }
    assert {r["event"] for r in first.records + second.records} | {"rollback"} == set(EVENTS)


def test_a_failed_callback_is_not_called_again():
    recorder = Recorder(fail_at=("steps", 1))
    callback = Callback(recorder, "m:f")
    with pytest.raises(CallbackError, match="leave --callback out"):
        callback("steps", 1, {"loss": 0.5})
    callback("run_end", 1, {"status": "failed"})
    assert len(recorder.records) == 1
