import dataclasses

import numpy as np
import pytest

import tflite
from keras_effnet.litert import classifier, runner
from tflite.quantization.objective import (
    ImageErrors,
    Objective,
    agreement_and_drop,
    folds,
    held_out,
    trimmed_mean,
)


@pytest.fixture
def quantized(trained_v1, photos):
    """An int8 version of the trained network."""
    plan = tflite.make_plan(tflite.read_ops(trained_v1), "int8", calibration_images=16)
    return tflite.quantize(trained_v1, tflite.calibrate(trained_v1, photos[:16]), plan)


def test_float_model_has_no_divergence_from_itself(trained_v1, photos):
    assert Objective(trained_v1, photos[:8])(trained_v1) == (0.0, 1.0)


def test_divergence_is_kl_in_nats(trained_v1, quantized, photos):
    p, q = (runner.scores(model, photos[:8]) for model in (trained_v1, quantized))
    kl, agreement = Objective(trained_v1, photos[:8])(quantized)
    assert kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-3)
    assert agreement == (p.argmax(-1) == q.argmax(-1)).mean()


@pytest.mark.parametrize(
    ("outliers", "mean"), [([7], 0.1), ([3, 7, 8], (0.1 * 37 + 2000) / 39)], ids=["1", "3"]
)
def test_trimmed_mean_leaves_out_3_percent(outliers, mean):
    divergences = np.full(40, 0.1)
    divergences[outliers] = 1000
    assert trimmed_mean(divergences) == pytest.approx(mean)


def test_predictions_are_those_of_the_file(trained_v1, quantized, photos):
    objective = Objective(trained_v1, photos[:8])
    predictions = objective.predictions_of(quantized)
    np.testing.assert_array_equal(predictions, runner.scores(quantized, photos[:8]).argmax(-1))
    errors = objective.errors(quantized)
    np.testing.assert_array_equal(errors.same, predictions == objective.predictions)
    assert (errors.mean, errors.same.mean()) == objective(quantized)


def test_first_images_give_the_objective_on_them(trained_v1, quantized, photos):
    objective = Objective(trained_v1, photos[:8], labels=np.arange(8))
    fewer = objective.first(3)
    assert fewer(quantized) == Objective(trained_v1, photos[:3])(quantized)
    np.testing.assert_array_equal(fewer.labels, [0, 1, 2])
    assert len(objective.images) == len(objective.labels) == 8


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        ([0, 1, 2, 3], None, (1.0, None)),
        ([0, 1, 2, 0], None, (0.75, None)),
        ([0, 1, 2, 0], [0, 1, 2, 3], (0.75, 25.0)),
        ([0, 1, 2, 0], [0, 1, 2, 0], (0.75, -25.0)),
        ([1, 0, 2, 3], [4, 4, 4, 4], (0.5, 0.0)),
    ],
)
def test_agreement_and_drop(predictions, labels, expected):
    labels = None if labels is None else np.array(labels)
    assert agreement_and_drop(np.arange(4), np.array(predictions), labels) == expected


def test_strict_and_plain_int8_files_can_be_evaluated(trained_v1, quantized, photos):
    assert classifier.open_classifier(quantized).output_scale == 0
    strict = tflite.make_plan(tflite.read_ops(trained_v1), "int8_strict", calibration_images=16)
    strict = tflite.quantize(trained_v1, tflite.calibrate(trained_v1, photos[:16]), strict)
    assert Objective(trained_v1, photos[:4])(strict)[0] < 5


def test_file_that_does_not_run_has_infinite_divergence(trained_v1, photos):
    objective = Objective(trained_v1, photos[:4])
    assert objective(trained_v1[:-200]) == (float("inf"), 0.0)
    assert (objective.predictions_of(trained_v1[:-200]) == -1).all()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(16, 16), (63, 63), (64, 32), (101, 50), (512, 256), (1024, 512), (2048, 1536)],
)
def test_half_of_64_or_more_images_is_held_out(count, expected):
    learning, held = held_out(count)
    assert len(held) == expected
    if count < 64:
        assert len(learning) == count
    else:
        assert sorted([*learning, *held]) == list(range(count))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(16, [(16, 16)]), (64, [(32, 32)] * 2), (101, [(51, 50), (50, 51)]), (512, [(256, 256)])],
)
def test_every_image_is_evaluated_on_in_one_of_two_folds(count, expected):
    parts = folds(count)
    assert [(len(learn), len(held)) for learn, held in parts] == expected
    if count >= 64:
        assert all(not set(learn) & set(held) for learn, held in parts)
    if count < 512:
        assert sorted(int(i) for _, held in parts for i in held) == list(range(count))


def test_joined_errors_are_those_of_all_images():
    first = ImageErrors(np.array([1.0, 2.0]), np.array([True, False]), 0.5)
    second = ImageErrors(np.array([3.0]), np.array([True]), 1.0)
    both = ImageErrors.joined([first, second])
    assert list(both.divergences) == [1, 2, 3]
    assert list(both.same) == [True, False, True]
    assert both.agreement == pytest.approx(2 / 3)
    assert ImageErrors.joined([dataclasses.replace(first, same=None)]).same is None
