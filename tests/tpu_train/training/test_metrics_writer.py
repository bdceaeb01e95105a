import io
import json
import types

import pytest

from tpu_train.training.metrics_writer import MetricsWriter

PHASE = types.SimpleNamespace(number=1, image_size=32, end_step=4, batch_size=8, images=8)


def step_record(step):
    return {
        "step": step,
        "phase": 1,
        "loss": 0.5,
        "accuracy": 0.25,
        "images_per_second": 100.0,
        "input_wait": 0.0,
    }


def evaluation_record(step):
    return {
        "step": step,
        "phase": 1,
        "evaluation_accuracy_ema": 0.5,
        "evaluation_accuracy_non_ema": 0.25,
    }


@pytest.fixture
def writer(tmp_path):
    """writer(first_step): a new writer to the same files; its lines are in `writer.stream`."""
    writers = []

    def new(first_step=0):
        writers.append(MetricsWriter(str(tmp_path), io.StringIO(), first_step=first_step))
        return writers[-1]

    yield new
    for writer in writers:
        writer.close()


def recorded_steps(tmp_path):
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_the_log_has_units_and_the_names_of_the_weights(writer):
    metrics = writer()
    metrics.start_phase(PHASE, 2, first_step=0)
    metrics.log_steps(step_record(2), 16)
    metrics.log_evaluation(evaluation_record(2))
    metrics.log_steps(step_record(4), 16)
    metrics.log_evaluation(evaluation_record(4))  # the summary of the phase includes it
    metrics.end_phase({"step": 4, "phase": 1, "seconds": 1.0})
    assert metrics.stream.getvalue().splitlines() == [
        "phase 1/2, 32 px: steps 0-3, tracing",
        "step 2: evaluation accuracy 50.00% with EMA weights, 25.00% with non-EMA weights",
        "phase 1/2, 32 px: 32/32 images, loss 0.500, accuracy 25.0%, 100 images/s, 0 s left in "
        "phase",
    ]


@pytest.mark.parametrize(("input_wait", "lines"), [(0.19, 0), (0.31, 1)])
def test_steps_that_wait_for_images_are_reported_once_a_phase(writer, input_wait, lines):
    metrics = writer()
    metrics.start_phase(PHASE, 2, first_step=0)
    metrics.log_steps({**step_record(1), "input_wait": 1.0}, 1000)  # of 10 s: the input starts
    for step in range(2, 6):
        metrics.log_steps({**step_record(step), "input_wait": input_wait}, 600)
    line = "phase 1/2, 32 px: steps wait for images 31% of the time: use more processor cores, "
    assert metrics.stream.getvalue().count(line) == lines
    assert metrics.stream.getvalue().count("wait for images") == lines


def test_an_evaluation_shows_loss_and_top5(writer):
    metrics = writer()
    metrics.start_phase(PHASE, 2, first_step=0)
    record = evaluation_record(2)
    metrics.log_evaluation(
        {
            **record,
            "evaluation_loss_ema": 0.5,
            "evaluation_top5_ema": 0.875,
            "evaluation_loss_non_ema": 1,
        }
    )
    assert metrics.stream.getvalue().splitlines()[1] == (
        "step 2: evaluation accuracy 50.00% (top-5 87.50%, loss 0.500) with EMA weights, "
        "25.00% (loss 1.000) with non-EMA weights"
    )


def test_an_evaluation_can_be_logged_before_a_phase(writer, tmp_path):
    writer().log_evaluation(evaluation_record(0))
    assert recorded_steps(tmp_path) == [0]


def test_a_rollback_removes_later_records(writer, tmp_path):
    metrics = writer()
    metrics.start_phase(PHASE, 1, first_step=0)
    for step in (1, 2, 3):
        metrics.log_steps(step_record(step), 8)
    metrics.roll_back(2)
    metrics.log_steps(step_record(4), 8)
    assert recorded_steps(tmp_path) == [1, 2, 4]


def test_a_resumed_run_keeps_complete_records_up_to_its_step(writer, tmp_path):
    complete = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(complete + '{"step": 2, "loss')  # cut by a kill
    writer(first_step=2)
    assert recorded_steps(tmp_path) == [1, 2]
    writer()
    assert recorded_steps(tmp_path) == []
