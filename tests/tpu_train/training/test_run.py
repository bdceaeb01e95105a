import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.variants import Normalization
from tpu_train.checkpointing.preemption import StoppedError
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def run(source, tiny_recipe, tmp_path):
    def run(device="cpu", workdir="run", *, folder=None, **changes):
        how = {
            name: changes.pop(name)
            for name in ("stop", "overwrite", "save_minutes", "data")
            if name in changes
        }
        data = how.pop("data", source)
        with open(tmp_path / "log", "w") as stream:
            return train(
                dataclasses.replace(tiny_recipe, **changes),
                data,
                data,
                (folder or tmp_path) / workdir,
                make_strategy(device),
                stream=stream,
                **how,
            )

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(folder, {device: its result, its log}) of whole runs that several tests look at."""
    return tmp_path_factory.mktemp("whole"), {}


@pytest.fixture
def whole(run, kept, tmp_path):
    """whole(device): the result of a run that nothing has cut, and what it said."""
    folder, results = kept

    def whole(device="cpu"):
        if device not in results:
            result = run(device, device.replace(":", ""), folder=folder)
            results[device] = result, (tmp_path / "log").read_text()
        return results[device]

    return whole


def weights(result):
    return keras.saving.load_model(result.model_path, compile=False).get_weights()


def at_call(number):
    """A `stop` that says so when it is asked the `number`-th time; the 0th is before step 0."""
    asked = []
    return lambda: asked.append(0) or ("enough" if len(asked) > number else "")


# Beside what `tiny_recipe` has: 24 steps, the papers' optimizer, averages of the last few weights.
EVERYTHING = {
    "phases": 1,
    "epochs": 8,
    "optimizer": "rmsprop",
    "learning_rate": 0.1,
    "weight_decay_mode": "l2",
    "gradient_accumulation_first": 2,
    "gradient_accumulation_last": 2,
    "ema_decay": 0.5,
    "zero_init_classifier": False,
}


def test_one_device_and_two_give_the_same_weights_with_everything_on(run):
    """RandAugment, mixup, CutMix, dropout, drop path, averages, clipping, batch norm over both
    devices, weight decay, two parts.
    """
    one, two = run("cpu", "one", **EVERYTHING), run("cpu:2", "two", **EVERYTHING)
    for a, b in zip(weights(one), weights(two)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for a, b in zip(one.phases, two.phases):
        assert a.accuracy == b.accuracy
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_another_seed_gives_another_run(run):
    one, other = (
        run(workdir=str(seed), seed=seed, phases=1, epochs=1, zero_init_classifier=False)
        for seed in (0, 1)
    )
    assert not np.array_equal(weights(one)[0], weights(other)[0])
    assert one.phases[0].loss != other.phases[0].loss


@pytest.mark.parametrize(("device", "calls"), [("cpu", 1), ("cpu", 2), ("cpu:2", 3)])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    run, whole, kept, tmp_path, device, calls
):
    """Stopped in the first phase, at its end, and in the second."""
    uncut, _ = whole(device)
    with pytest.raises(StoppedError, match="The same command goes on"):
        run(device, "cut", stop=at_call(calls))
    assert not (tmp_path / "cut" / "model.keras").exists()
    rest = run(device, "cut")
    assert f"going on after step {3 * calls}" in (tmp_path / "log").read_text()
    for a, b in zip(weights(rest), weights(uncut)):
        np.testing.assert_array_equal(a, b)
    assert [dataclasses.replace(p, seconds=0) for p in rest.phases] == [
        dataclasses.replace(p, seconds=0) for p in uncut.phases
    ]
    cut, folder = tmp_path / "cut", kept[0] / device.replace(":", "")
    steps = [
        [
            (r["step"], r["loss"])
            for r in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())
            if "loss" in r
        ]
        for f in (cut, folder)
    ]
    assert steps[0] == steps[1]
    assert sorted(os.listdir(cut)) == sorted(os.listdir(folder))


def test_a_run_begins_with_the_weights_of_another_and_normalises_as_they_need(run, tmp_path, tiny):
    """Of other classes: the body is kept, the head is new."""
    half = Normalization((127.5,) * 3, (127.5,) * 3)
    body = create_model(dataclasses.replace(tiny, normalization=half), classes=7)
    body.save(tmp_path / "body.keras")
    body_alone = {"learning_rate": 1e-9, "weight_decay": 0, "phases": 1, "epochs": 1}
    result = run(weights=str(tmp_path / "body.keras"), **body_alone)
    tuned = keras.saving.load_model(result.model_path, compile=False)
    assert tuned.get_layer("normalization").get_config()["mean"] == pytest.approx([127.5] * 3)
    kernel = body.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(tuned.get_layer("stem_conv").get_weights()[0], kernel, atol=1e-6)
    assert tuned.output_shape == (None, 4)


def test_weights_that_are_not_there_are_told_before_anything_slow(run, tmp_path):
    with pytest.raises(ValueError, match="no file has that name"):
        run(weights="none.keras")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_gone_on_with_by_another(run):
    with pytest.raises(StoppedError):
        run(stop=at_call(0))
    with pytest.raises(ValueError, match=r"learning_rate 0\.01, now 0\.02.*--overwrite"):
        run(learning_rate=0.02)
    with pytest.raises(ValueError, match=r"seed 0, now 1"):
        run(seed=1)
    with pytest.raises(StoppedError):
        run(learning_rate=0.02, overwrite=True, stop=at_call(0))


def test_a_torn_checkpoint_costs_its_steps_and_nothing_else(run, whole, tmp_path):
    with pytest.raises(StoppedError):  # with checkpoints after steps 3 and 6
        run(workdir="cut", save_minutes=0, stop=at_call(2))
    newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    (newest / "variables.npz").write_bytes(b"torn")
    rest = run(workdir="cut")
    assert "going on after step 3" in (tmp_path / "log").read_text()
    for a, b in zip(weights(rest), weights(whole()[0])):
        np.testing.assert_array_equal(a, b)


def test_a_network_learns_what_can_be_learnt(run):
    noise = (
        *(
            "randaugment_magnitude_first",
            "randaugment_magnitude_last",
            "mixup_first",
            "mixup_last",
            "cutmix_first",
        ),
        *("cutmix_last", "drop_path_first", "drop_path_last"),
    )
    result = run(epochs=60, phases=1, learning_rate=0.1, ema_decay=0.9, **dict.fromkeys(noise, 0))
    assert result.accuracy >= 0.9


def test_a_run_leaves_what_it_promises(whole, kept, source):
    result, log = whole()
    folder = kept[0] / "cpu"
    assert sorted(os.listdir(folder)) == [
        *("curves.png", "labels.txt", "metrics.jsonl", "model.keras", "recipe.json", "tensorboard"),
    ]
    assert pathlib.Path(result.labels_path).read_text() == "a\nb\nc\nd\n"
    records = list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == [3, 6, 9, 12]  # two phases of 6 steps, 3 a host call
    assert [r["image_size"] for r in records if "seconds" in r] == [32, 40]
    told = json.loads((folder / "recipe.json").read_text())
    assert told["recipe"]["model"] == "tiny"
    assert told["training_images"] == source.examples
    assert "phase 2/2, 40 px: 6 steps in" in log


def test_the_exported_model_loads_without_this_project_and_reaches_the_said_accuracy(
    whole, tmp_path, source
):
    result, _ = whole()
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    accuracy = _elsewhere(result, images, source.labels, tmp_path)
    assert accuracy == pytest.approx(result.accuracy, abs=1e-9)


def _elsewhere(result, images, labels, folder):
    """The accuracy of an exported model in a process that has nothing but Keras."""
    np.savez(folder / "images.npz", images=images, labels=labels)
    code = f"""
import keras, numpy as np, sys, tensorflow as tf
model = keras.saving.load_model({result.model_path!r})
data = np.load({str(folder / "images.npz")!r})
pixels = tf.round(tf.image.resize(data["images"], model.input_shape[1:3]))
scores = model.predict(pixels, verbose=0)
assert not [m for m in sys.modules if m.split(".")[0] in ("keras_effnet", "tpu_train")]
assert abs(scores.sum(1) - 1).max() < 1e-5, "softmax inside"
print((scores.argmax(1) == data["labels"]).mean())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert out.returncode == 0, out.stderr
    return float(out.stdout.split()[-1])


@pytest.mark.parametrize("precision", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_half_precision_trains_and_exports_float32(run, precision):
    """A network of another width and depth, too."""
    scaled = {"width": 1.5, "depth": 2} if precision == "float16" else {}
    result = run(precision=precision, phases=1, epochs=2, **scaled)
    model = keras.saving.load_model(result.model_path, compile=False)
    assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in model.get_weights())
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    if scaled:
        assert model.get_layer("stem_conv").filters == 16  # 8 * 1.5, in eights
        assert model.get_layer("block2b_add")


def test_keras_cv_augments_a_run_and_says_that_it_does_not_repeat(run, tmp_path):
    pytest.importorskip("keras_cv")
    result = run(augment="keras_cv", phases=1, epochs=2)
    assert np.isfinite(result.phases[0].loss)
    assert "keras_cv draws its augmentation anew" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_anybodys_network_trains_and_loads_with_keras_alone(run, tmp_path, source):
    """keras.applications' ResNet50, as in the paper's Table 12; progressively."""
    result = run(model="keras.applications:ResNet50", epochs=1, freeze="batch_norm")
    assert [p.image_size for p in result.phases] == [32, 40]
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    accuracy = _elsewhere(result, images, source.labels, tmp_path)
    assert accuracy == pytest.approx(result.accuracy, abs=1e-9)


def test_a_batch_that_does_not_divide_says_which_would(run):
    with pytest.raises(ValueError, match=r"batch_size 7 does not divide over 2.*try 4 or 8"):
        run("cpu:2", batch_size=7)


def test_a_workdir_with_a_run_in_it_is_not_overwritten_by_accident(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_text("mine")
    with pytest.raises(ValueError, match="holds a run already"):
        run()
    assert (tmp_path / "run" / "model.keras").read_text() == "mine"


def test_a_workdir_that_cannot_be_written_is_refused_before_anything_slow(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        run(workdir="file/run")


_WORKER = """
import dataclasses, json, sys
sys.path[:0] = [{root!r}]
from keras_effnet.constructors import create_model
from keras_effnet.variants import Normalization
from tpu_train.training.distribution import make_strategy
strategy = make_strategy("auto")
import numpy as np
from keras_effnet.variants import VARIANTS
from tests.conftest import TINY
VARIANTS["tiny"] = TINY
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.recipes.schema import Recipe
from tpu_train.training.run import train
recipe = Recipe(**json.loads({recipe!r}))
training, evaluation = open_data({data!r}, holdout=0.5, seed=0)
train(recipe, training, evaluation, {workdir!r}, strategy)
"""


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.slow
def test_two_workers_over_tf_config_give_the_weights_of_one(source, tiny_recipe, tmp_path):
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    data = str(tmp_path / "data.npz")
    np.savez(data, images=images, labels=source.labels)
    recipe = json.dumps(dataclasses.asdict(dataclasses.replace(tiny_recipe, **EVERYTHING)))
    workers = [f"127.0.0.1:{port}" for port in _free_ports(2)]

    def start(workdir, config):
        code = _WORKER.format(
            root=str(ROOT), recipe=recipe, data=data, workdir=str(tmp_path / workdir)
        )
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        if config:
            environment["TF_CONFIG"] = json.dumps(config)
        code = code.replace("from tests.conftest import TINY", _tiny_source())
        # To files: a pipe that nobody reads blocks a worker, and so the other one.
        with open(tmp_path / f"log{len(started)}", "w") as log:
            started.append(
                subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=log)
            )

    def finish():
        for number, process in enumerate(started):
            log = tmp_path / f"log{number}"
            assert process.wait(timeout=900) == 0, log.read_text()[-3000:]

    started = []
    try:
        for i in range(2):
            start("two", {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}})
        finish()
        start("one", None)
        finish()
    finally:
        for process in started:
            process.kill()
            process.wait()

    got, expected = (
        keras.saving.load_model(tmp_path / w / "model.keras", compile=False).get_weights()
        for w in ("two", "one")
    )
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def _tiny_source():
    """The TINY variant as code: a worker is a process of its own, without pytest's conftest."""
    text = (ROOT / "tests" / "conftest.py").read_text()
    start = text.index("TINY = Variant(")
    body = text[start : text.index("\n)\n", start) + 3]
    return f"from keras_effnet.variants import V2, Normalization, Stage, Variant\n{body}"
