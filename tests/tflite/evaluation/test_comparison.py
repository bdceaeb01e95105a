import json

import numpy as np
import pytest

from tflite.evaluation import delegates
from tflite.evaluation.accuracy import EvaluationImages
from tflite.evaluation.comparison import SQNR_IMAGES, compare


@pytest.fixture(scope="module")
def compared():
    """Compares two models on the same images, once for each pair of names."""
    comparisons = {}

    def get(reference, candidate, images, names):
        if names not in comparisons:
            data = EvaluationImages(images, np.arange(len(images)) % 10)
            comparisons[names] = compare(reference, candidate, data, names=names, runs=1)
        return comparisons[names]

    return get


def test_a_comparison_has_json_types_only(compared, float_content, int8_content, images):
    comparison = compared(float_content, int8_content, images, ("float32", "int8"))
    content = json.loads(json.dumps(comparison.as_dict()))
    assert content["report"]["names"] == ["float32", "int8"]
    assert content["blocks"][1]["name"] == "stem"
    assert content["blocks"][1]["worst"] in content["blocks"][1]["tensors"]
    assert [sum(parts.values()) for parts in content["size_by_part"]] == [
        len(float_content),
        len(int8_content),
    ]
    assert content["delegates"][1][0]["verdict"] == "all"


def test_a_comparison_covers_both_models(compared, float_content, int8_content, images):
    comparison = compared(float_content, int8_content, images, ("float32", "int8"))
    assert comparison.sqnr_images == min(SQNR_IMAGES, len(images))
    assert comparison.image_sizes == ((32, 32), (32, 32))
    for rows in comparison.delegates:
        assert [row.delegate for row in rows] == list(delegates.DELEGATES)


def test_sqnr_can_be_measured_against_another_reference(float_content, int8_content, images):
    data = EvaluationImages(images[:2])
    by_itself = compare(float_content, int8_content, data, sqnr_reference=int8_content, runs=1)
    assert {block.sqnr_db for block in by_itself.blocks} == {120.0}
    assert by_itself.report.reference.size == len(float_content)
