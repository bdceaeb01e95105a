import csv
import json

import pytest

from keras_effnet.evaluation.output_files import check_folder, write_evaluation

ORIGIN = {"model": "m", "data": "d", "unreadable": [], "facts": {}}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_agree_with_each_other(evaluation, tmp_path):
    e = evaluation(3, 40)
    paths = write_evaluation(tmp_path / "new" / "out", "test", e, ORIGIN)
    out = tmp_path / "new" / "out"
    assert sorted(map(str, out.iterdir())) == sorted(paths)
    record = json.loads((out / "test.json").read_text())
    images = rows(out / "test_images.csv")
    assert len(images) == 40 == record["metrics"]["images"]
    share = sum(row["correct"] == "True" for row in images) / 40
    assert share == record["metrics"]["top1"]["value"] == e.top1.value
    loss = sum(float(row["loss"]) for row in images) / 40
    assert loss == pytest.approx(record["metrics"]["loss"])
    classes = rows(out / "test_classes.csv")
    assert [row["class"] for row in classes] == list(e.class_names)
    matrix = list(csv.reader((out / "test_confusion_matrix.csv").read_text().splitlines()))
    assert matrix[0][1:] == list(e.class_names)
    numbers = [list(map(int, row[1:])) for row in matrix[1:]]
    assert [sum(row) for row in numbers] == [int(row["images"]) for row in classes]
    confusions = rows(out / "test_confusions.csv")
    off = sum(map(sum, numbers)) - sum(numbers[i][i] for i in range(3))
    assert sum(int(row["images"]) for row in confusions) == off


def test_several_labels_have_metrics_instead_of_a_matrix(evaluation, tmp_path):
    write_evaluation(tmp_path, "evaluation", evaluation(4, 40, several=True), ORIGIN)
    names = sorted(p.name.removeprefix("evaluation") for p in tmp_path.iterdir())
    assert names == [".html", ".json", "_classes.csv", "_images.csv"]
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert 0 < record["metrics"]["mean_average_precision"] <= 1
    assert {"average_precision", "best_threshold", "best_f1"} <= set(record["classes"][0])
    assert rows(tmp_path / "evaluation_images.csv")[1]["label"] == "class 1;<cat> & dog"


def test_only_files_of_an_evaluation_are_overwritten(evaluation, tmp_path):
    out = tmp_path / "out"
    check_folder(out, "evaluation")
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    check_folder(out, "evaluation")
    write_evaluation(out, "evaluation", evaluation(), ORIGIN)
    check_folder(out, "evaluation")
    (out / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation.html.* are not overwritten"):
        check_folder(out, "evaluation")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        check_folder(out / "notes.txt", "evaluation")
