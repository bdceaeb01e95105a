"""The weights do not depend on the number of devices or workers that train them."""

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

from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.training.distribution import make_strategy
from tpu_train.training.run import train

ROOT = pathlib.Path(__file__).parents[3]
_WORKER = """
import json, sys
from tpu_train.training.distribution import make_strategy
strategy = make_strategy("auto")
from keras_effnet.variants import VARIANTS
from tests.conftest import TINY
VARIANTS["tiny"] = TINY
from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.recipes.schema import Recipe
from tpu_train.training.run import train
recipe, data, workdir = sys.argv[1:]
train(Recipe(**json.loads(recipe)), *open_data(data, holdout=0.5, seed=0), workdir, strategy)
"""


@pytest.fixture
def recipe(tiny_recipe):
    """Mixup, CutMix, dropout, drop path, a short EMA, clipping, weight decay, two
    gradient-accumulation steps. Without RandAugment: test_batches.py shows that images do not
    depend on the number of replicas and hosts.
    """
    return dataclasses.replace(
        tiny_recipe,
        phases=1,
        epochs=8,  # 12 steps
        augment="none",
        optimizer="rmsprop",
        learning_rate=0.1,
        weight_decay_mode="l2",
        gradient_accumulation_first=2,
        gradient_accumulation_last=2,
        ema_decay=0.5,
        zero_init_classifier=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture
def data(source, folder):
    """The path of a file of the source's 24 images; half of each class is for evaluation."""
    path = folder / "data.npz"
    images = np.stack([source.read(i).numpy() for i in range(source.examples)])
    np.savez(path, images=images, labels=source.labels)
    return str(path)


def _train(recipe, data, workdir, device):
    with open(f"{workdir}.log", "w") as stream:
        splits = open_data(data, holdout=0.5, seed=0)
        return train(recipe, *splits, workdir, make_strategy(device), stream=stream)


@pytest.fixture(scope="module")
def results():
    """[the result on one device], which both tests compare with."""
    return []


@pytest.fixture
def one(recipe, data, folder, results):
    if not results:
        results.append(_train(recipe, data, folder / "one", "cpu"))
    return results[0]


def _assert_same_weights(model_path, other_path):
    models = (keras.saving.load_model(p, compile=False) for p in (model_path, other_path))
    for a, b in zip(*(model.get_weights() for model in models)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.every_stack
def test_one_and_two_devices_give_the_same_weights(one, recipe, data, folder):
    """Batch norm is computed over both devices."""
    two = _train(recipe, data, folder / "two-devices", "cpu:2")
    _assert_same_weights(one.model_path, two.model_path)
    for a, b in zip(one.phases, two.phases):
        assert a.accuracy == b.accuracy
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.slow
def test_two_workers_give_the_weights_of_one(one, recipe, data, folder):
    workers = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    arguments = [json.dumps(dataclasses.asdict(recipe)), data, str(folder / "two-workers")]
    started, logs = [], [folder / f"worker{number}.log" for number in range(2)]
    try:
        for number, log in enumerate(logs):
            task = {"type": "worker", "index": number}
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
            }
            command = [sys.executable, "-c", _WORKER, *arguments]
            with log.open("w") as stream:  # a pipe that is not read would block both workers
                started.append(subprocess.Popen(command, env=environment, stderr=stream))
        for process, log in zip(started, logs):
            assert process.wait(timeout=900) == 0, log.read_text()[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    _assert_same_weights(one.model_path, folder / "two-workers" / "model.keras")
