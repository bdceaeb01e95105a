"""One device, two devices and two processes give the same pseudo-labels and students."""

import keras
import numpy as np
import pytest

from benchmarks import local_workers
from tests.tpu_train.forked_command import ForkedCommand
from tests.tpu_train.noisy_student import small_parts as parts
from tests.tpu_train.noisy_student.conftest import write_labeled
from tests.tpu_train.noisy_student.test_rounds import FLAGS
from tpu_train.cli import main
from tpu_train.input_pipeline.pseudo_labeled import open_pseudo_labels

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_parts")]

SETTINGS = {
    **{name: FLAGS[name] for name in FLAGS if name not in ("rounds", "threshold", "device")},
    **{"epochs": 1, "min_steps": 20, "steps_per_loop": 10, "pages": False},
    **{"pseudo_labels": "soft", "mixup_first": 0.2, "mixup_last": 0.2, "learning_rate": 0.05},
}


def words(flags):
    return [f"--{name}={value}" for name, value in flags.items()]


def run_here(command, device):
    assert main([*command, f"--device={device}"]) == 0


def run_by_two(command, device):
    """Runs a command in two processes that share it."""
    processes = [
        ForkedCommand(parts.main, [*command, f"--device={device}"], environment=environment)
        for environment in local_workers.environments()
    ]
    ends = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends


def test_devices_and_processes_label_and_train_alike(teacher_path, photos, tmp_path):
    data = write_labeled(tmp_path / "data.npz")
    results = []
    for name, run, labels_on, trains_on in (
        ("one", run_here, "cpu", "cpu"),
        ("two", run_here, "cpu:2", "cpu:2"),
        ("processes", run_by_two, "cpu", "multi-worker"),
    ):
        shards, student = tmp_path / name / "shards", tmp_path / name / "student"
        labeling = {"model": teacher_path, "data": photos, "out": shards, "threshold": 0.25}
        run(["pseudo-label", *words(labeling)], labels_on)
        training = {**SETTINGS, "data": data, "unlabeled": shards, "workdir": student}
        run(words(training), trains_on)
        source = open_pseudo_labels(shards, "abcd")
        model = keras.saving.load_model(student / "model.keras", compile=False)
        scored = [source.read_scored(i) for i in range(source.examples)]
        results.append((scored, model.get_weights(), (student / "recipe.json").read_text()))
    (one, weights, record), *others = results
    assert '"end_step": 20' in record
    assert len(one) == 60
    for scored, other_weights, _ in others:
        for (image, scores), (other_image, other_scores) in zip(one, scored, strict=True):
            assert image.numpy() == other_image.numpy()
            np.testing.assert_allclose(scores, other_scores, rtol=0, atol=1e-5)
        for a, b in zip(weights, other_weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
