import dataclasses

import pytest
import tensorflow as tf

from keras_effnet.model_cost import cost
from keras_effnet.variants import NETWORKS
from tests.conftest import TINY
from tpu_train.recipes.table import find_recipe
from tpu_train.search import step_time
from tpu_train.search.step_time import make_timer

SIZES = {f"image_size_{which}": 32 for which in ("first", "last", "eval")}
RECIPE = dataclasses.replace(
    find_recipe("search"), model="tiny", batch_size=8, mixup_last=0.1, **SIZES
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(NETWORKS, "tiny", TINY)


def _timer(name):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    return make_timer(name, strategy, classes=3, examples=64, cache="")


def test_flops_are_those_of_an_image_and_need_no_device():
    timer = _timer("flops")
    assert timer.measure(RECIPE) == cost(TINY, image_size=32, classes=3).macs
    assert (timer.unit, timer.device) == ("multiply-adds", "none")


def test_an_unknown_tpu_is_refused():
    with pytest.raises(ValueError, match="Unknown topology 'v9'"):
        _timer("tpu:v9")


@pytest.mark.slow
def test_a_measured_step_is_the_median_and_names_the_device(monkeypatch):
    clock = iter(float(i * i) for i in range(1000))  # each interval is longer than the one before
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(clock))
    timer = _timer("measured")
    middle = step_time.WARMUP_STEPS + step_time.STEPS // 2
    assert timer.measure(RECIPE) == (2 * middle + 1) ** 2 - (2 * middle) ** 2
    assert timer.device.startswith("1 replica on CPU (OneDeviceStrategy)")
    assert "threads" in timer.device
    assert timer.unit == "seconds"
