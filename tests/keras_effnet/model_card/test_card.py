import json

import pytest

from keras_effnet.cli import main
from keras_effnet.evaluation.intervals import wilson
from keras_effnet.model_card.card import Publication, make_keras_card, make_tflite_card
from keras_effnet.model_card.file_text import without_folders
from keras_effnet.model_card.markdown import render_markdown
from keras_effnet.model_card.model_file import describe_keras


def test_every_fact_of_a_run_is_in_the_card(trained, network):
    card = make_keras_card(trained / "model.keras", None, Publication("mit", ("me/photos",)))
    model = card["model"]
    assert model["parameters"] == network.count_params()
    assert model["class_names"] == ["<cat> | dog", "ünder_score", "rare"]
    assert model["input"] == {
        "height": 32, "width": 32, "channels": 3, "dtype": "float32", "pixel_range": [0, 255],
        "crop": 0.0, "interpolation": "bilinear",
        "mean": [127.0] * 3, "std": [128.0] * 3,
    }  # fmt: skip
    assert card["data"]["training"] == "photos train"
    assert card["data"]["images_per_class"] == [600, 380, 20]
    assert card["recipe"]["epochs"] == 30
    assert card["network"] == "tiny"
    (evaluation,) = card["evaluations"]
    low, high = wilson(100, 104)
    assert evaluation["metrics"]["top1"] == {"value": 100 / 104, "low": low, "high": high}
    assert [row["recall"] for row in evaluation["classes"]] == [1, 1, 0]
    assert (card["license"], card["datasets"]) == ("mit", ["me/photos"])


def test_a_run_from_a_file_has_no_network_of_that_name(run1):
    path = run1 / "recipe.json"
    record = json.loads(path.read_text())
    record["recipe"]["model"] = "earlier/model.keras"
    path.write_text(json.dumps(record))
    card = make_keras_card(run1 / "model.keras")
    assert card["network"] is None
    assert card["recipe"]["model"] == "earlier/model.keras"
    assert '- "model.keras"' not in render_markdown(card)


@pytest.mark.slow
@pytest.mark.every_stack
def test_parameters_are_counted_without_those_of_the_optimizer(network, tmp_path):
    import keras

    model = keras.models.clone_model(network)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    assert len(model.optimizer.variables) > len(model.trainable_variables)
    model.save(tmp_path / "compiled.keras")
    described = describe_keras(str(tmp_path / "compiled.keras"))
    assert described["parameters"] == network.count_params()
    assert described["input"]["height"] == 32


def test_no_local_folder_is_in_a_card(trained):
    assert "/home/me" not in json.dumps(make_keras_card(trained / "model.keras"))
    assert without_folders("/me/my photos/ (9 images)") == "my photos/ (9 images)"
    assert without_folders("gs://bucket/me/train") == "train"
    assert without_folders("photos validation") == "photos validation"


def test_limits_name_small_and_weak_classes(trained):
    limits = "\n".join(make_keras_card(trained / "model.keras")["limits"])
    assert "one of the 3 classes" in limits
    assert "32 x 32 pixels" in limits
    assert "fewer than 30 training images (1 of 3): rare (20)." in limits
    assert "could not be read were left out: 1." in limits
    assert "rare (4)." in limits  # evaluation images
    assert "below the top-1 accuracy of 96.2%" in limits
    assert limits.count("rare (0.0%)") == 1
    assert "6.2 points below the share of right predictions" in limits


def test_a_model_that_was_not_evaluated_says_so(run1):
    (run1 / "evaluation.json").unlink()
    card = make_keras_card(run1 / "model.keras")
    assert card["evaluations"] == []
    assert "This file has not been evaluated: its accuracy is unknown." in card["limits"]


def _lines(run1, capsys, *flags):
    status = main(["card", f"--model={run1 / 'model.keras'}", *flags])
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (lambda f: (f / "recipe.json").unlink(), [], "not the work directory of a training"),
        (lambda f: (f / "recipe.json").write_text("{}"), [], "not the record of a training"),
        (lambda f: (f / "recipe.json").write_text("[]"), [], "not the record of a training"),
        (lambda f: (f / "model.keras").write_bytes(b"PK"), [], "cannot be read as a .keras file"),
        (lambda f: (f / "model.keras").unlink(), [], "does not exist"),
        (lambda f: (f / "labels.txt").write_text("a\nb\nc\n"), [], "files of two trainings"),
        (lambda f: (f / "evaluation.json").write_text("{}"), [], "is not an evaluation"),
        (lambda f: None, ["--evaluation=none.json"], "'none.json' does not exist"),
        (lambda f: None, ["--evaluation=setup.py"], "setup.py is not an evaluation"),
        (lambda f: None, ["--out=card.txt"], "must end in .md"),
        (lambda f: None, ["--out=none/card.md"], "is not a folder"),
        (lambda f: None, ["--license="], "--license is empty"),
        (lambda f: None, ["--datasets=a,,b"], "empty name"),
        (lambda f: None, ["--workdir=x"], "is for a .tflite"),
        (lambda f: None, ["--evalution=x"], "Did you mean '--evaluation'"),
        (lambda f: (f / "model_card.md").write_text("mine"), [], "it is not overwritten"),
        (lambda f: (f / "model_card.json").write_text("{}"), [], "it is not overwritten"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run1, capsys, damage, flags, message):
    damage(run1)
    before = sorted(p.name for p in run1.iterdir())
    status, printed = _lines(run1, capsys, *flags)
    assert status == 2
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert sorted(p.name for p in run1.iterdir()) == before


def test_the_evaluation_of_another_model_is_refused(run1, network, capsys):
    network.get_layer("predictions").bias.assign([1.0, 2.0, 3.0])
    network.save(run1 / "model.keras")
    status, printed = _lines(run1, capsys)
    assert status == 2
    assert "is the evaluation of another model (model.keras)" in printed.err
    assert describe_keras(str(run1 / "model.keras"))["sha256"] in printed.err


def test_the_command_writes_markdown_and_json_and_replaces_them(run1, capsys):
    for flags in ([], ["--license=apache-2.0"], [f"--out={run1 / 'README.md'}"]):
        status, printed = _lines(run1, capsys, *flags)
        assert (status, printed.err) == (0, "")
        assert ("to be filled in" in printed.out) != ("--license=apache-2.0" in flags)
    record = json.loads((run1 / "model_card.json").read_text())
    assert record["license"] == "apache-2.0"
    assert (run1 / "README.md").read_text().startswith('---\nlicense: "other"')
    assert json.loads((run1 / "README.json").read_text())["license"] is None


def test_a_tflite_without_its_report_is_refused(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"\0\0\0\0TFL3")
    with pytest.raises(ValueError, match="needs the report that effnet-tflite wrote"):
        make_tflite_card(tmp_path / "m.tflite")
    for content in ("{}", "[]", "not JSON"):
        (tmp_path / "m.tflite.json").write_text(content)
        with pytest.raises(ValueError, match="is not a report of effnet-tflite"):
            make_tflite_card(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("evaluation.json", ("metrics", "images"), None),
        ("evaluation.json", ("metrics", "loss"), "0.5"),
        ("evaluation.json", ("metrics", "top1"), 0.5),
        ("evaluation.json", ("metrics", "loss_interval"), [1]),
        ("evaluation.json", ("facts", "Date"), 7),
        ("evaluation.json", ("classes", 0, "correct"), 61),
        ("evaluation.json", ("classes", 0, "class"), None),
        ("recipe.json", ("images_per_class", 0), "many"),
        ("recipe.json", ("training_images",), -1),
        ("recipe.json", ("phases",), [{"a": 1}, {}]),
        ("recipe.json", ("run", "classes"), [1]),
    ],
)
def test_a_field_of_another_type_is_an_error(run1, file, field, value):
    record = json.loads((run1 / file).read_text())
    place = record
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    (run1 / file).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{file} is not"):
        make_keras_card(run1 / "model.keras")


def test_the_loss_of_a_diverged_model_is_undefined(run1):
    path = run1 / "evaluation.json"
    record = json.loads(path.read_text())
    for name in ("loss", "overconfidence", "expected_calibration_error"):
        record["metrics"][name] = float("nan")
    record["metrics"]["loss_interval"] = [None, None]
    path.write_text(json.dumps(record))
    card = make_keras_card(run1 / "model.keras")
    text = render_markdown(card)
    assert "| loss | undefined |  |" in text
    assert 'type: "loss"' not in text
    json.dumps(card, allow_nan=False)
