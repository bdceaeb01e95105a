import numpy as np
import pytest

from keras_effnet.cli import main
from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import load_image, preprocess, preprocessing
from keras_effnet.label_file import read_labels
from keras_effnet.labels import imagenet_classes
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS
from keras_effnet.variants import VARIANTS


def test_models_prints_a_row_for_every_variant(capsys, zoo):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("efficientnet")}
    assert list(rows) == list(VARIANTS)
    for name, row in rows.items():
        facts = zoo[name]
        assert row[1] == str(facts["image_size"])
        assert row[2] == str(sum(facts["repeats"]))
        assert row[3] == f"{facts['total']:,}"
        assert float(row[4]) == pytest.approx(
            facts.get("gmacs", facts.get("macs", 0) / 1e9), abs=6e-3
        )
    assert rows["efficientnet-b0"][5] == "77.1"
    assert rows["efficientnet-l2"][5] == "-"


def test_models_takes_a_pattern(capsys):
    assert main(["models", "*lite*"]) == 0
    out = capsys.readouterr().out
    assert "efficientnet-lite4" in out
    assert "efficientnet-b0" not in out


def test_plan_prints_the_blocks(capsys):
    assert main(["plan", "efficientnet-b3"]) == 0
    assert capsys.readouterr().out == f"{plan('efficientnet-b3')}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan", "efficientnet-b33"], "Did you mean 'efficientnet-b3'"),
        (["models", "*resnet*"], "No model matches '*resnet*'"),
    ],
)
def test_an_unknown_model_exits_2_with_one_line(argv, message, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("argv", [[], ["build"], ["plan"]])
def test_an_unknown_command_exits_2(argv, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "--help" in err
    assert len(err.splitlines()) == 1


def test_weights_prints_a_row_for_all_pretrained_weights(capsys):
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [tuple(line.split()[:2]) for line in lines if line.startswith("efficientnet")]
    assert sorted(rows) == sorted(PRETRAINED_WEIGHTS)
    assert main(["weights", "mobilenet"]) == 2


def test_labels_writes_imagenets_classes(tmp_path, capsys):
    assert main(["labels", f"--out={tmp_path / 'labels.txt'}"]) == 0
    assert read_labels(tmp_path / "labels.txt") == imagenet_classes()
    assert main(["labels", f"--out={tmp_path / 'no' / 'labels.txt'}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def trained(tiny, keras, tame, tmp_path):
    """A .keras file of two classes with its labels.txt, and an image."""
    from PIL import Image

    model = create_model(tiny, classes=2)
    tame(model)
    model.save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("cat\nowl\n")
    Image.new("RGB", (50, 40), (200, 100, 0)).save(tmp_path / "x.png")
    return model, tmp_path / "model.keras", tmp_path / "x.png"


def test_predict_prints_classes_and_preprocessing(trained, capsys):
    model, path, image = trained
    assert main(["predict", str(image), f"--model={path}"]) == 0
    out = capsys.readouterr().out
    pixels = preprocess(load_image(image), preprocessing(model))
    scores = np.asarray(model.predict(pixels[None], verbose=0))[0]
    assert f"{scores.max():7.2%}  {['cat', 'owl'][int(scores.argmax())]}  " in out
    assert "32 x 32 pixels" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "efficientnet-b00"}, "Did you mean 'efficientnet-b0'"),
        ({"--weights": "imagenet"}, "drop one"),
        ({"--labels": "none.txt"}, "none.txt"),
        ({"image": "none.png"}, "none.png does not exist"),
        ({"--model": "x.png"}, "is not a .keras file"),
    ],
)
def test_predict_checks_its_arguments_first(trained, change, message, capsys):
    _, path, image = trained
    image = change.pop("image", str(image))
    flags = {"--model": str(path), **change}
    if flags["--model"] == "x.png":
        flags["--model"] = str(path.with_name("x.png"))
    assert main(["predict", image, *(f"{k}={v}" for k, v in flags.items())]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_a_damaged_model_file_is_a_one_line_error(trained, capsys):
    _, path, image = trained
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["predict", str(image), f"--model={path}"]) == 2
    assert "cannot be read as a .keras file" in capsys.readouterr().err
