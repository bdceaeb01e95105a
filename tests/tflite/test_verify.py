import json

import numpy as np
import pytest

import tflite
from tflite import litert


def test_figures_are_those_of_the_two_files(float_content, int8_content, images):
    a, b = (
        litert.scores(litert.interpreter(content), images).argmax(-1)
        for content in (float_content, int8_content)
    )
    report = tflite.verify(float_content, int8_content, images, labels=a, runs=5)
    assert report.float32.top1 == 1.0
    assert report.int8.top1 == report.agreement == np.mean(a == b)
    assert report.float32.size == len(float_content)
    assert report.size_ratio == len(float_content) / len(int8_content)
    assert report.latency_ratio == report.int8.latency_ms / report.float32.latency_ms > 0
    assert report.int8.fully_accelerated
    assert report.int8.float_ops == {"MUL": 1, "SOFTMAX": 1, "SUB": 1}


def test_a_report_fits_into_json_and_reads_as_a_table(float_content, int8_content, images):
    labels = np.zeros(len(images), int)
    report = tflite.verify(float_content, int8_content, images, labels, source="noise", runs=2)
    assert json.loads(json.dumps(report.as_dict()))["agreement"] == report.agreement
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == [
        "float32", "top-1", "top-5", "drop", "agreement", "divergence", "size", "latency", "2",
        "accelerated", "still", "measured",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 100
    assert lines[-1].endswith("noise")


def test_without_labels_there_is_no_top1(float_content, int8_content, images):
    report = tflite.verify(float_content, int8_content, images, runs=2)
    assert report.int8.top1 is None
    assert not any(line.startswith("top-1") for line in str(report).splitlines())


def test_a_float_model_alone_can_be_measured(float_content, images):
    report = tflite.verify(float_content, None, images, np.zeros(16, int), runs=2)
    assert report.int8 is report.agreement is report.size_ratio is report.latency_ratio is None
    assert "int8" not in str(report)
    json.dumps(report.as_dict())


def test_bad_images_and_labels_are_errors(float_content, int8_content, images):
    def fails(match, *arguments):
        with pytest.raises(ValueError, match=match):
            tflite.verify(float_content, int8_content, *arguments)

    fails(r"takes uint8 \(n, 32, 32, 3\)", images[:, :8])
    fails(r"n at least 1", images[:0])
    fails(r"10 classes, 0 to 9", images, np.full(16, 10))
    fails(r"there are 16 images", images, np.zeros(3, int))
