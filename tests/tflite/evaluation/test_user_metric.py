import numpy as np
import pytest

import tflite
from tflite.evaluation.user_metric import UserMetric, metric_loss
from tflite.quantization.objective import Objective

_OUTPUTS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
_LABELS = np.array([0, 1, 1])


def accuracy(outputs, labels):
    """One number for each image; higher is better."""
    return outputs.argmax(-1) == labels


def error(outputs, labels):
    """One number for all images; lower is better."""
    return float(np.abs(outputs[:, 1] - labels).mean())


error.lower_is_better = True


def test_metric_is_a_number_or_one_for_each_image():
    assert UserMetric.of(accuracy)(_OUTPUTS, _LABELS).tolist() == [1, 1, 0]
    assert UserMetric.of(error)(_OUTPUTS, _LABELS) == pytest.approx([0.3])


def test_positive_loss_is_worse_whichever_direction_is_better():
    for function, better, worse in ((accuracy, 1.0, 0.5), (error, 0.5, 1.0)):
        row = metric_loss(UserMetric.of(function), np.array([better]), np.array([worse]))
        assert row.loss == 0.5
        assert row.confidence_interval is None


def test_loss_of_values_for_each_image_has_an_interval():
    before, after = np.ones(100), np.repeat([1.0, 0.0], [80, 20])
    row = metric_loss(UserMetric.of(accuracy), before, after)
    low, high = row.confidence_interval
    assert row.loss == pytest.approx(0.2)
    assert low == pytest.approx(0.2 - 1.96 * after.std(ddof=1) / 10, abs=1e-3)
    assert high - row.loss == pytest.approx(row.loss - low)


def _raising(outputs, labels):
    raise KeyError("no such column")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raising, "raised KeyError: 'no such column'"),
        (lambda o, y: 1 / 0, "raised ZeroDivisionError"),
        (lambda o: 1.0, "raised TypeError"),
        (lambda o, y: float("nan"), "returned NaN or infinity for 1 of 1 values"),
        (lambda o, y: np.array([1.0, np.inf, 0.0]), "for 1 of 3 values"),
        (lambda o, y: o, r"returned shape \(3, 2\) for 3 images: return one number, or an array"),
        (lambda o, y: [1.0, 2.0], r"returned shape \(2,\)"),
        (lambda o, y: None, "returned NaN"),
        (lambda o, y: "good", "returned str"),
        (lambda o, y: {"a": 1}, "returned dict"),
        (lambda o, y: [[1], [2, 3]], "returned list"),
    ],
)
def test_metric_that_fails_is_one_clear_error(function, message):
    with pytest.raises(ValueError, match=message) as caught:
        UserMetric(function, "mine")(_OUTPUTS, _LABELS)
    assert "\n" not in str(caught.value)


def test_metric_without_labels_says_so_if_it_fails():
    with pytest.raises(ValueError, match="the images have no labels: it gets None"):
        UserMetric.of(error)(_OUTPUTS, None)


def test_objective_is_the_loss_of_the_metric(trained_v1, photos):
    labels = Objective(trained_v1, photos[:16]).predictions
    objective = Objective(trained_v1, photos[:16], labels, metric=UserMetric.of(accuracy))
    assert objective.measures == ("loss of accuracy", "accuracy")
    assert objective(trained_v1) == (0.0, 1.0)
    wrong = (labels + 1) % 10
    objective = Objective(trained_v1, photos[:16], wrong, metric=UserMetric.of(accuracy))
    assert objective(trained_v1) == (0.0, 0.0)
    assert objective.without_metric()(trained_v1) == (0.0, 1.0)
    assert len(objective.first(4).values) == 4


def test_metric_drives_the_steps_and_is_in_the_report(trained_v1, photos):
    calls = []

    def distance(outputs, labels):
        calls.append(outputs.shape)
        return np.abs(outputs - 0.1).sum(-1)

    conversion = tflite.convert(
        trained_v1, calibration=photos[:16], metric=distance, search_evaluations=0
    )
    assert calls[0] == (16, 10)
    for step in conversion.quantization_steps:
        assert step.measures == ("loss of distance", "distance")
    row = conversion.as_dict()["report"]["metric"]
    assert row["name"] == "distance"
    assert row["candidate"] == pytest.approx(row["reference"] - row["loss"])
    assert "distance" in str(conversion.report)


def test_metric_of_a_keras_model_is_tried_before_the_export(model, images, monkeypatch):
    monkeypatch.setattr("tflite.converter.export_float32", lambda *_, **__: pytest.fail("slow"))
    with pytest.raises(ValueError, match="metric bad returned NaN"):
        tflite.convert(model, calibration=images, metric=bad)


def bad(outputs, labels):
    """Not a number, on ten scores for each image."""
    assert outputs.shape == (16, 10)
    return np.nan


def test_metric_without_images_is_an_error(float_content):
    with pytest.raises(ValueError, match="metric bad needs images"):
        tflite.convert(float_content, preset="float16", metric=bad)
    with pytest.raises(ValueError, match=r"metric must be a function \(outputs, labels\), got int"):
        tflite.convert(float_content, preset="float16", metric=3)
