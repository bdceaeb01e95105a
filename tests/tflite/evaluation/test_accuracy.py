import json

import numpy as np
import pytest
from scipy import special, stats

import tflite
from keras_effnet.litert import classifier, runner, runtime, writer
from tflite.evaluation import paired_statistics
from tflite.evaluation.accuracy import EvaluationImages


def _disturbed(content):
    """The same network with random errors in its weights."""
    tree = runtime.flatbuffer_tools().read_model_from_bytearray(content)
    rng = np.random.default_rng(0)
    for buffer in tree.buffers:
        if buffer.data is not None and len(buffer.data) > 256:
            weights = np.frombuffer(bytes(buffer.data), np.float32)
            noisy = weights + rng.normal(0, weights.std(), weights.shape)
            buffer.data = np.frombuffer(noisy.astype(np.float32).tobytes(), np.uint8)
    return writer.write(tree)


def _evaluate(reference, candidate, images, labels=None, candidate_images=None, **options):
    data = EvaluationImages(images, labels, options.pop("source", "images"), candidate_images)
    return tflite.evaluate(reference, candidate, data, **{"runs": 1, **options})


@pytest.fixture(scope="module")
def colours():
    """16 images of one colour each, with several predicted classes."""
    colours = np.random.default_rng(2).integers(0, 256, (16, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (16, 32, 32, 3)).copy()


def test_metrics_are_those_of_the_two_files(float_content, int8_content, images):
    a, b = (runner.scores(content, images).argmax(-1) for content in (float_content, int8_content))
    report = _evaluate(float_content, int8_content, images, labels=a, runs=5)
    assert report.reference.top1 == 1.0
    assert report.candidate.top1 == report.agreement == np.mean(a == b)
    assert report.reference.size == len(float_content)
    assert report.size_ratio == len(float_content) / len(int8_content)
    assert report.latency_ratio == report.candidate.latency_ms / report.reference.latency_ms > 0
    assert report.candidate.fully_accelerated
    assert report.candidate.float_ops == {"FULLY_CONNECTED": 1, "MUL": 1, "SOFTMAX": 1, "SUB": 1}


def test_a_report_has_a_json_form_and_a_table(float_content, int8_content, images):
    labels = np.zeros(len(images), int)
    report = _evaluate(float_content, int8_content, images, labels, source="random", runs=2)
    assert json.loads(json.dumps(report.as_dict()))["agreement"] == report.agreement
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == [
        "float32", "top-1", "top-5", "drop", "agreement", "KL", "size", "latency", "2",
        "accelerated", "float32", "measured",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 100
    assert lines[-1].endswith("random")


def test_without_labels_there_is_no_top1(float_content, int8_content, images):
    report = _evaluate(float_content, int8_content, images, runs=2)
    assert report.candidate.top1 is None
    assert not any(line.startswith("top-1") for line in str(report).splitlines())


def test_a_reference_can_be_evaluated_alone(float_content, images):
    report = _evaluate(float_content, None, images, np.zeros(16, int), runs=2)
    assert report.candidate is report.agreement is report.size_ratio is report.latency_ratio is None
    assert "int8" not in str(report)
    json.dumps(report.as_dict())


def test_bad_images_and_labels_are_errors(float_content, int8_content, images):
    def fails(match, *arguments):
        with pytest.raises(ValueError, match=match):
            _evaluate(float_content, int8_content, *arguments)

    fails(r"takes uint8 \(n, 32, 32, 3\)", images[:, :8])
    fails(r"n at least 1", images[:0])
    fails(r"10 classes, 0 to 9", images, np.full(16, 10))
    fails(r"there are 16 images", images, np.zeros(3, int))


def _scores(content, images):
    return classifier.scores(classifier.open_classifier(content), images)


def test_kl_divergence_is_the_relative_entropy_of_the_scores(float_content, int8_content, images):
    report = _evaluate(float_content, int8_content, images, runs=1)
    p, q = (_scores(c, images).astype(float) for c in (float_content, int8_content))
    assert report.kl_divergence == pytest.approx(stats.entropy(p, q, axis=-1).mean(), rel=1e-3)
    assert report.kl_divergence > 0


def test_logits_are_normalized_by_a_softmax(float_content, logits_content, images):
    p = special.softmax(_scores(logits_content, images).astype(float), -1)
    np.testing.assert_allclose(p, _scores(float_content, images), atol=1e-5)
    report = _evaluate(logits_content, float_content, images, runs=1)  # softmax against logits
    assert report.kl_divergence == pytest.approx(0, abs=1e-6)
    assert report.agreement == 1
    assert report.changed_predictions == ()


def test_softmax_against_sigmoid_has_no_kl_divergence(tiny, build, float_content, images):
    sigmoid = tflite.export_float32(build(tiny, classifier_activation="sigmoid"))
    report = _evaluate(float_content, sigmoid, images, runs=1)
    assert report.kl_divergence is None
    assert not any(line.startswith("KL") for line in str(report).splitlines())
    assert _evaluate(sigmoid, sigmoid, images, runs=1).kl_divergence == pytest.approx(0)


def test_long_file_names_are_told_apart_in_the_table(float_content, images):
    names = ("efficientnet-b0-int8.tflite", "efficientnet-b1-int8.tflite")
    lines = str(_evaluate(float_content, float_content, images, runs=1, names=names)).splitlines()
    assert lines[0].split() == ["reference", names[0]]
    assert lines[1].split() == ["candidate", names[1]]
    assert lines[2].split() == ["reference", "candidate"]
    assert next(line for line in lines if line.startswith("size")).endswith("the same size")


def test_changed_predictions_are_listed_by_margin(float_content, colours):
    other = _disturbed(float_content)
    p, q = _scores(float_content, colours), _scores(other, colours)
    labels = p.argmax(-1).copy()
    labels[::2] = q.argmax(-1)[::2]
    report = _evaluate(float_content, other, colours, labels, runs=1, names=("float32", "other"))
    differ = np.flatnonzero(p.argmax(-1) != q.argmax(-1))
    assert len(differ)
    assert sorted(row.index for row in report.changed_predictions) == differ.tolist()
    for row in report.changed_predictions:
        assert (row.reference, row.candidate) == (p[row.index].argmax(), q[row.index].argmax())
        assert row.reference_score == pytest.approx(p[row.index].max(), rel=1e-4)
        assert row.candidate_score == pytest.approx(q[row.index].max(), rel=1e-4)
        assert row.outcome == ("wrong->right" if row.index % 2 == 0 else "right->wrong")
    margins = [row.margin for row in report.changed_predictions]
    assert margins == sorted(margins, reverse=True)
    low, high = report.agreement_confidence_interval
    assert low < report.agreement < high
    assert report.drop == paired_statistics.drop(p.argmax(-1) == labels, q.argmax(-1) == labels)
    assert str(report).splitlines()[0].split() == ["float32", "other"]
    assert (
        report.as_dict()["changed_predictions"][0]["outcome"]
        == report.changed_predictions[0].outcome
    )


def test_top5_counts_labels_among_the_five_highest_scores(float_content, int8_content, images):
    scores = _scores(float_content, images)
    labels = np.argsort(-scores, -1)[:, 4]
    labels[:4] = np.argsort(-scores[:4], -1)[:, 5]
    report = _evaluate(float_content, int8_content, images, labels, runs=1)
    assert report.reference.top1 == 0
    assert report.reference.top5 == 12 / 16


def test_five_classes_have_no_top5(tiny, build, images):
    content = tflite.export_float32(build(tiny, classes=5))
    report = _evaluate(content, content, images, np.zeros(16, int), runs=1)
    assert report.reference.top5 is None
    assert report.drop.points == 0
    assert report.drop.confidence_interval[0] < 0 < report.drop.confidence_interval[1]


def test_latency_is_measured_with_one_and_two_threads(float_content, int8_content, images):
    report = _evaluate(float_content, int8_content, images, runs=3)
    assert report.candidate.latency_2_threads_ms > 0
    assert report.latency_ratio_2_threads == (
        report.candidate.latency_2_threads_ms / report.reference.latency_2_threads_ms
    )


@pytest.mark.slow
def test_other_classes_or_image_sizes_are_errors(tiny, build, float_content, images):
    five = tflite.export_float32(build(tiny, classes=5))
    with pytest.raises(ValueError, match="10 and 5 classes"):
        _evaluate(float_content, five, images)
    larger = tflite.export_float32(build(tiny, input_shape=(40, 40, 3)))
    with pytest.raises(ValueError, match=r"takes uint8 \(n, 40, 40, 3\)"):
        _evaluate(float_content, larger, images)
    wider = np.zeros((16, 40, 40, 3), np.uint8)
    report = _evaluate(float_content, larger, images, candidate_images=wider, runs=1)
    assert report.images == 16
