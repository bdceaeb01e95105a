import xml.etree.ElementTree as ET

import numpy as np
import pytest

from keras_effnet.evaluation import charts
from keras_effnet.evaluation.calibration import calibrate

SVG = "{http://www.w3.org/2000/svg}"


def test_a_small_matrix_shows_names_and_numbers(evaluation):
    e = evaluation(3, 40)
    svg = charts.confusion_matrix(e.confusions, e.present, e.class_names)
    texts = [t.text or t[0].tail for t in ET.fromstring(svg).iter(f"{SVG}text")]
    assert texts.count("<cat> & dog") == 2  # a row and a column
    numbers = [int(t) for t in texts if t.isdecimal()]
    assert sum(numbers) == 40


@pytest.mark.parametrize("classes", [41, 300])
def test_a_large_matrix_has_one_square_for_each_cell(evaluation, classes):
    e = evaluation(classes, 600)
    svg = charts.confusion_matrix(e.confusions, e.present, e.class_names)
    squares = sum(p.get("d").count("M") for p in ET.fromstring(svg).iter(f"{SVG}path"))
    assert squares == len(e.confusions)


def test_more_than_1000_classes_are_not_drawn():
    cells = np.array([[0, 0, 1]])
    assert charts.confusion_matrix(cells, range(1001), ["x"] * 1001) == ""


def test_the_reliability_diagram_has_a_group_for_each_used_bin():
    svg = charts.reliability_diagram(calibrate(np.array([0.1, 0.9, 0.95]), np.array([0, 1, 1])))
    titles = [t.text for t in ET.fromstring(svg).iter(f"{SVG}title")]
    assert titles == [
        "1 images: confidence 10.0%, accuracy 0.0%",
        "1 images: confidence 90.0%, accuracy 100.0%",
        "1 images: confidence 95.0%, accuracy 100.0%",
    ]
