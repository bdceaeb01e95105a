import numpy as np
import pytest
from PIL import Image

from keras_effnet.cli import main
from keras_effnet.constructors import create_model
from keras_effnet.image_decoding import load_image
from keras_effnet.image_preprocessing import Preprocessing, preprocess, preprocessing
from keras_effnet.label_file import read_labels
from keras_effnet.labels import imagenet_classes
from keras_effnet.model_input import image_input
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
        (["models", "*vgg*"], "No model matches '*vgg*'"),
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
    for label_format, first in (("short", "tench"), ("wnid", "n01440764")):
        arguments = [f"--format={label_format}", f"--out={tmp_path / 'labels.txt'}"]
        assert main(["labels", *arguments]) == 0
        assert read_labels(tmp_path / "labels.txt")[0] == first
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


@pytest.mark.every_stack
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
        ({"--labels": "three.txt"}, "has 3 class names, but the model has 2 classes"),
        ({"--labels": "gap.txt"}, "line 2 is empty"),
        ({"--labels": "latin1.txt"}, "is not UTF-8 text"),
        ({"--labels": "three.txt", "--label-format": "wnid"}, "drop it, or --labels"),
        ({"image": "none.png"}, "none.png does not exist"),
        ({"--model": "x.png"}, "is not a .keras file"),
        ({"--model": "x.tflite"}, "effnet evaluate takes both"),
    ],
)
def test_predict_checks_its_arguments_first(trained, change, message, capsys):
    _, path, image = trained
    image = change.pop("image", str(image))
    (path.parent / "three.txt").write_text("a\nb\nc\n")
    (path.parent / "gap.txt").write_text("a\n\nb\n")
    (path.parent / "latin1.txt").write_bytes("caf\xe9\nb\n".encode("latin-1"))
    flags = {"--model": str(path), **change}
    if flags.get("--labels", "none.txt") != "none.txt":
        flags["--labels"] = str(path.with_name(flags["--labels"]))
    (path.parent / "x.tflite").write_bytes(b"")
    if flags["--model"].startswith("x."):
        flags["--model"] = str(path.with_name(flags["--model"]))
    assert main(["predict", image, *(f"{k}={v}" for k, v in flags.items())]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_a_damaged_model_file_is_a_one_line_error(trained, capsys):
    _, path, image = trained
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["predict", str(image), f"--model={path}"]) == 2
    assert "cannot be read as a .keras file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "crop"),
    [((32, 32, 1), None), ((32, 48, 3), 0.875), ((48, 32, 1), None), ((None, None, 1), 0.875)],
)
def test_predict_and_explain_take_grey_and_oblong(keras, tiny, tmp_path, shape, crop, capsys):
    from PIL import Image

    stated = Preprocessing(40, crop, "bilinear")
    model = create_model(tiny, classes=2, input_shape=shape, preprocessing=stated)
    model.save(tmp_path / "m.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    flags = [str(tmp_path / "x.png"), f"--model={tmp_path / 'm.keras'}"]
    assert main(["predict", *flags]) == 0
    out = capsys.readouterr().out
    height, width = (n or 40 for n in shape[:2])
    assert f"{height} x {width} pixels" in out
    assert main(["explain", *flags, f"--out={tmp_path / 'out.png'}"]) == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size[0] * height == 2 * width * picture.size[1]


def test_explain_takes_what_predict_takes(keras, tiny, tmp_path, capsys):
    inputs = keras.Input((32, 32, 3))
    network = create_model(tiny, include_top=False, pooling="avg")
    dense = [keras.layers.Dense(n)(network(inputs)) for n in (1, 2)]
    keras.Model(inputs, dense[0]).save(tmp_path / "unit.keras")
    keras.Model(inputs, dense).save(tmp_path / "two.keras")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    flags = ["explain", str(tmp_path / "x.png"), f"--out={tmp_path / 'out.png'}"]
    unit = f"--model={tmp_path / 'unit.keras'}"
    assert main([*flags, unit]) == 0
    assert "grad-cam for yes (0." in capsys.readouterr().out
    assert main([*flags, unit, "--class=no"]) == 2
    assert "only the evidence for that class can be shown, not for no" in capsys.readouterr().err
    assert main([*flags, f"--model={tmp_path / 'two.keras'}"]) == 2
    assert "is not a classifier: its output has shape [" in capsys.readouterr().err


@pytest.mark.every_stack
def test_an_oblong_input_gets_the_center_with_its_shape(keras, tiny):
    model = create_model(
        tiny, input_shape=(32, 64, 3), preprocessing=Preprocessing(64, 0.5, "bilinear")
    )
    image = np.zeros((128, 128, 3), np.uint8)
    image[48:80, 32:96] = 200
    assert (image_input(model).prepare(image) == 200).all()
    assert "32 x 64 pixels" in str(image_input(model))


@pytest.mark.parametrize(
    ("activation", "bias", "shares"),
    [("sigmoid", 2.0, [88.08, 11.92]), (None, 2.0, [88.08, 11.92]), (None, 0.3, [57.44, 42.56])],
)
def test_predict_takes_one_unit_as_the_second_of_two_classes(
    keras, tmp_path, capsys, activation, bias, shares
):
    unit = keras.layers.Dense(
        1,
        activation,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(bias),
    )
    pool = keras.layers.GlobalAveragePooling2D()
    keras.Sequential([keras.Input((32, 32, 3)), pool, unit]).save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "0.png")
    assert main(["predict", str(tmp_path / "0.png"), f"--model={tmp_path / 'm.keras'}"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-2:]] == [
        [f"{shares[0]}%", "dog", "(1)"],
        [f"{shares[1]}%", "cat", "(0)"],
    ]


def test_predict_refuses_scores_that_are_not_finite(keras, tiny, trained, capsys):
    _, path, image = trained
    model = create_model(tiny, classes=2, input_shape=(32, 32, 3))
    model.set_weights([w * np.nan for w in model.get_weights()])
    model.save(path)
    assert main(["predict", str(image), f"--model={path}"]) == 2
    err = capsys.readouterr().err
    assert "scores that are not finite: its weights are damaged" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_images_of_five_channels_are_one_clear_error(keras, tiny, trained, command, capsys):
    _, path, image = trained
    create_model(tiny, classes=2, input_shape=(32, 32, 5)).save(path)
    assert main([command, str(image), f"--model={path}"]) == 2
    err = capsys.readouterr().err
    assert "takes images of 5 channels" in err
    assert len(err.splitlines()) == 1


def test_predict_takes_the_images_of_a_folder(trained, tmp_path, capsys):
    _, path, image = trained
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for name in ("b.PNG", "a.png", "._a.png", "notes.txt"):
        (folder / name).write_bytes(image.read_bytes())
    assert main(["predict", str(folder.parent), str(image), f"--model={path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [line for line in lines if line.lower().endswith("png")]
    assert printed == [str(folder / "a.png"), str(folder / "b.PNG"), str(image)]
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), f"--model={path}"]) == 2
    assert "empty contains no images (JPEG" in capsys.readouterr().err
    assert main(["explain", str(folder), f"--model={path}"]) == 2
    assert "is a folder: give the path of an image file" in capsys.readouterr().err


def test_scale_refuses_networks_that_no_machine_runs(capsys):
    for flags in (["50"], ["--width=1000"], ["--depth=99"], ["--image_size=100000"]):
        assert main(["scale", "efficientnet-b0", *flags]) == 2
        err = capsys.readouterr().err
        assert "the largest published network (L2) has" in err
        assert len(err.splitlines()) == 1
    assert main(["scale", "efficientnet-b0", "8"]) == 0


def test_models_keeps_base_networks_apart(capsys):
    assert main(["models"]) == 0
    first, others = capsys.readouterr().out.split("Not EfficientNets, and without pretrained")
    assert "mobilenetv2" not in first
    assert [line.split()[0] for line in others.splitlines() if line.startswith(("mob", "res"))] == [
        "mobilenetv2",
        "resnet50",
    ]
    assert main(["models", "resnet*"]) == 0
    assert "efficientnet-b0" not in capsys.readouterr().out


def test_scale_writes_a_network_that_other_commands_read(tmp_path, capsys):
    path = tmp_path / "resnet.json"
    flags = ["scale", "resnet50", "--width=0.5", f"--out={path}"]
    assert main(flags) == main(flags) == 0  # its own file is replaced
    capsys.readouterr()
    assert main(["plan", str(path)]) == 0
    assert capsys.readouterr().out.startswith("resnet50-w0.5-d1-r224: 16 blocks")
    path.write_text("{}")
    for refused in (flags, ["scale", "resnet50", f"--out={path}"], [*flags[:-1], "--out=x.txt"]):
        assert main(refused) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_text() == "{}"
