import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnet.constructors import create_model
from keras_effnet.variants import Normalization
from tpu_train.callbacks.records import Callback
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.training import run as run_module
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train


@pytest.fixture
def run(source, tiny_recipe, tmp_path):
    """run(device, workdir, ...) trains the tiny network, with fields of the recipe replaced."""

    def run(device="cpu", workdir="run", *, folder=None, stop=lambda: "", pages=False, **changes):
        with open(tmp_path / "log", "w") as stream:
            return train(
                dataclasses.replace(tiny_recipe, **changes),
                source,
                source,
                (folder or tmp_path) / workdir,
                make_strategy(device),
                stream=stream,
                stop=stop,
                pages=pages,
            )

    return run


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """(folder, [(result, log)]) of the finished run that several tests share."""
    return tmp_path_factory.mktemp("finished"), []


@pytest.fixture
def finished(run, finished_runs, tmp_path):
    """(result, workdir, log) of an uninterrupted run."""
    folder, results = finished_runs
    if not results:
        result = run(folder=folder, pages=True)
        results.append((result, (tmp_path / "log").read_text()))
    result, log = results[0]
    return result, folder / "run", log


def load(result):
    return keras.saving.load_model(result.model_path, compile=False)


def weights(result):
    return load(result).get_weights()


def test_another_seed_gives_other_weights(train_conv, exported_weights):
    one, other = (
        train_conv(str(seed), changes={"seed": seed, "phases": 1, "epochs": 1}) for seed in (0, 1)
    )
    assert not np.array_equal(exported_weights(one)[0], exported_weights(other)[0])
    assert one.phases[0].loss != other.phases[0].loss


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(run, finished, tmp_path, stop_at):
    """Everything on. Smaller networks: test_loop.py (first phase), test_resume.py (two devices)."""
    expected, folder, _ = finished
    with pytest.raises(StoppedError, match=r"after step 9 .*The same command resumes"):
        run(workdir="stopped", stop=stop_at(3), pages=True)
    stopped = tmp_path / "stopped"
    assert not (stopped / "model.keras").exists()
    resumed = run(workdir="stopped", pages=True)
    assert "resuming after step 9" in (tmp_path / "log").read_text()
    for a, b in zip(weights(resumed), weights(expected)):
        np.testing.assert_array_equal(a, b)
    assert [dataclasses.replace(p, seconds=0) for p in resumed.phases] == [
        dataclasses.replace(p, seconds=0) for p in expected.phases
    ]
    steps = [
        [
            (r["step"], r["loss"])
            for r in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())
            if "loss" in r
        ]
        for f in (stopped, folder)
    ]
    assert steps[0] == steps[1]
    assert sorted(os.listdir(stopped)) == sorted(os.listdir(folder))


@pytest.mark.slow
@pytest.mark.every_stack
def test_pretrained_weights_and_their_normalization_are_used(run, tmp_path, tiny):
    """With other classes: the backbone is kept, the classifier is new."""
    half = Normalization((127.5,) * 3, (127.5,) * 3)
    backbone = create_model(dataclasses.replace(tiny, normalization=half), classes=7)
    backbone.save(tmp_path / "backbone.keras")
    one_step = {"learning_rate": 1e-9, "weight_decay": 0, "phases": 1, "epochs": 1}
    one_step["augment"] = "none"
    result = run(weights=str(tmp_path / "backbone.keras"), **one_step)
    tuned = keras.saving.load_model(result.model_path, compile=False)
    assert tuned.get_layer("normalization").get_config()["mean"] == pytest.approx([127.5] * 3)
    kernel = backbone.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(tuned.get_layer("stem_conv").get_weights()[0], kernel, atol=1e-6)
    assert tuned.output_shape == (None, 4)


def test_missing_weights_are_an_error_before_anything_slow(run, tmp_path):
    with pytest.raises(ValueError, match="no file has that name"):
        run(weights="none.keras")
    assert not (tmp_path / "run").exists()


def test_a_different_run_is_not_resumed(train_conv, stop_at):
    with pytest.raises(StoppedError):
        train_conv(stop=stop_at(0))
    with pytest.raises(ValueError, match=r"learning_rate 1\.0, now 0\.02.*--overwrite"):
        train_conv(changes={"learning_rate": 0.02})
    with pytest.raises(ValueError, match=r"seed 0, now 1"):
        train_conv(changes={"seed": 1})
    with pytest.raises(StoppedError):
        train_conv(changes={"learning_rate": 0.02}, overwrite=True, stop=stop_at(0))


@pytest.mark.slow
def test_a_corrupt_checkpoint_costs_only_its_steps(
    train_conv, stop_at, log, exported_weights, tmp_path
):
    one_phase = {"phases": 1}
    with pytest.raises(StoppedError):  # with checkpoints after steps 3 and 6
        train_conv("stopped", changes=one_phase, save_minutes=0, stop=stop_at(2))
    newest = sorted((tmp_path / "stopped" / "checkpoints").iterdir())[-1]
    (newest / "variables.npz").write_bytes(b"corrupt")
    resumed = train_conv("stopped", changes=one_phase)
    assert "skipping corrupt checkpoint" in log()
    assert "resuming after step 3" in log()
    expected = train_conv("uninterrupted", changes=one_phase)
    for a, b in zip(exported_weights(resumed), exported_weights(expected)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_of_a_finished_run_are_removed_unless_kept(train_conv, tmp_path, keep):
    train_conv(changes={"phases": 1, "epochs": 1}, keep_checkpoints=keep)
    assert (tmp_path / "run" / "checkpoints").exists() == keep


@pytest.mark.parametrize(("enabled", "line"), [(True, "oneDNN is on"), (False, "oneDNN is off;")])
def test_the_log_says_whether_onednn_is_used(train_conv, stop_at, log, monkeypatch, enabled, line):
    monkeypatch.setattr(run_module, "onednn_enabled", lambda: enabled)
    with pytest.raises(StoppedError):
        train_conv(stop=stop_at(0))
    assert line in log()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nan": "ignore"}, "Unknown on_nan 'ignore': give stop or skip"),
        ({"eval_epochs": -1}, "eval_epochs must be 0 or more, got -1"),
        ({"changes": {"model": "nowhere:net"}}, "--model=nowhere:net cannot be imported"),
        ({"changes": {"optimizer": "adma"}}, "Did you mean 'adam'"),
        ({"changes": {"weights": "none.keras"}}, "--weights=none.keras: there is no such file"),
    ],
)
def test_invalid_input_is_an_error_before_anything_is_written(
    train_conv, tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        train_conv(**options)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_learns_the_training_images(run):
    off = ("mixup_first", "mixup_last", "cutmix_first", "cutmix_last", "drop_path_first")
    changes = {**dict.fromkeys((*off, "drop_path_last"), 0), "augment": "none", "phases": 1}
    result = run(epochs=60, learning_rate=0.1, ema_decay=0.9, **changes)
    assert result.accuracy >= 0.9


def test_a_run_writes_the_documented_files(finished, source):
    result, folder, log = finished
    assert sorted(os.listdir(folder)) == [
        *("curves.png", "evaluation.html", "evaluation.json", "evaluation_classes.csv"),
        *("evaluation_confusion_matrix.csv", "evaluation_confusion_matrix.svg"),
        *("evaluation_confusions.csv", "evaluation_images.csv", "labels.txt", "metrics.jsonl"),
        *("model.keras", "model_card.json", "model_card.md", "recipe.json", "tensorboard"),
    ]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["metrics"]["top1"]["value"] == pytest.approx(result.accuracy)
    assert evaluation["metrics"]["images"] == source.examples
    card = json.loads((folder / "model_card.json").read_text())
    assert result.card_path == str(folder / "model_card.md")
    assert card["evaluations"][0]["metrics"]["top1"] == evaluation["metrics"]["top1"]
    assert sum(card["data"]["images_per_class"]) == card["data"]["training_images"]
    assert card["model"]["parameters"] == load(result).count_params()
    assert result.pages == {"evaluation": str(folder / "evaluation.html")}
    assert pathlib.Path(result.labels_path).read_text() == "a\nb\nc\nd\n"
    records = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == [3, 6, 9, 12]  # two phases of 6 steps, 3 a host call
    assert [r["image_size"] for r in records if "seconds" in r] == [32, 40]
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["recipe"]["model"] == "tiny"
    assert recipe["training_images"] == source.examples
    assert "phase 2/2, 40 px: 6 steps in" in log


@pytest.mark.slow
@pytest.mark.every_stack
def test_the_exported_model_has_the_reported_accuracy_with_keras_alone(finished, tmp_path, source):
    """In a process that imports only Keras."""
    result, _, _ = finished
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    np.savez(tmp_path / "images.npz", images=images, labels=source.labels)
    code = f"""
import keras, numpy as np, sys, tensorflow as tf
model = keras.saving.load_model({result.model_path!r})
data = np.load({str(tmp_path / "images.npz")!r})
pixels = tf.round(tf.image.resize(data["images"], model.input_shape[1:3]))
scores = model.predict(pixels, verbose=0)
assert not [m for m in sys.modules if m.split(".")[0] in ("keras_effnet", "tpu_train")]
assert abs(scores.sum(1) - 1).max() < 1e-5, "the model returns probabilities"
print((scores.argmax(1) == data["labels"]).mean())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout.split()[-1]) == pytest.approx(result.accuracy, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_and_exports_float32(run, precision):
    result = run(precision=precision, phases=1, epochs=1, augment="none")
    model = keras.saving.load_model(result.model_path, compile=False)
    assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in model.get_weights())
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


@pytest.mark.slow
def test_keras_cv_trains_and_logs_that_it_is_not_reproducible(run, tmp_path):
    pytest.importorskip("keras_cv")
    result = run(augment="keras_cv", phases=1, epochs=2)
    assert np.isfinite(result.phases[0].loss)
    assert "keras_cv augmentation is not reproducible" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_an_imported_network_trains_with_progressive_learning(run, source):
    """The paper's Table 12 has ResNets; of keras.applications' networks, MobileNet is the fastest
    to trace.
    """
    changes = {"epochs": 1, "freeze": "batch_norm", "augment": "none"}
    result = run(model="keras.applications:MobileNet", **changes)
    assert [p.image_size for p in result.phases] == [32, 40]
    model = keras.saving.load_model(result.model_path, compile=False)
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    pixels = tf.round(tf.image.resize(images, model.input_shape[1:3]))
    correct = model.predict(pixels, verbose=0).argmax(1) == source.labels
    assert correct.mean() == pytest.approx(result.accuracy, abs=1e-9)


def test_an_indivisible_batch_size_is_an_error_with_alternatives(run):
    with pytest.raises(ValueError, match=r"batch_size 7 does not divide over 2.*try 4 or 8"):
        run("cpu:2", batch_size=7)


def test_an_existing_run_is_not_overwritten_by_default(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_text("mine")
    with pytest.raises(ValueError, match="already contains a run"):
        run()
    assert (tmp_path / "run" / "model.keras").read_text() == "mine"


def test_two_runs_at_once_in_a_workdir_are_an_error(train_conv, tmp_path):
    refused, short = [], {"phases": 1, "epochs": 1}

    def start_another(record):
        if record["event"] == "phase_end":
            for overwrite in (False, True):
                with pytest.raises(ValueError, match="another process is writing to") as error:
                    train_conv(changes=short, overwrite=overwrite)
                refused.append(str(error.value))

    result = train_conv(changes=short, callback=Callback(start_another, "test"))
    assert len(refused) == 2
    assert str(tmp_path / "run") in refused[0]
    assert result.model_path
    train_conv(changes=short, overwrite=True)  # the lock is free again


def test_an_unwritable_workdir_is_an_error_before_anything_slow(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not writable"):
        run(workdir="file/run")
