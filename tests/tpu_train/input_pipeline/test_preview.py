import dataclasses
import os
import sys

import numpy as np
import pytest
from PIL import Image

from tpu_train.cli.preview import main
from tpu_train.input_pipeline import preview
from tpu_train.input_pipeline.batches import training_batches
from tpu_train.recipes.phases import make_phases


def test_a_row_shows_the_first_images_of_the_phase(source, tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe, mixup_last=0.0, cutmix_last=0.0, label_smoothing=0.1, batch_size=8
    )
    phase = make_phases(recipe, source.examples)[1]
    pixels, weights = preview.first_images(recipe, source, phase, images=6)
    steps = {"first_step": phase.first_step, "end_step": phase.first_step + 1}
    (batch,) = training_batches(source, recipe, phase, replicas=1, **steps)
    accumulated = dataclasses.replace(phase, accumulation=8)  # more than there are images
    np.testing.assert_array_equal(
        preview.first_images(recipe, source, accumulated, images=6)[0], pixels
    )
    np.testing.assert_array_equal(pixels, batch["image"][:6])
    np.testing.assert_array_equal(weights, np.eye(4)[batch["label"][:6]])  # not smoothed


def test_a_preview_has_the_images_of_an_oversampled_epoch(source, tiny_recipe, monkeypatch):
    drawn = []
    monkeypatch.setattr(preview, "first_images", lambda _, source, *rest: drawn.append(source))
    recipe = dataclasses.replace(tiny_recipe, oversample=True)
    with pytest.raises(TypeError):  # no images are returned
        preview.draw_preview(recipe, source.take([0, 1, 2, 3, 4]), "x.png")
    assert drawn[0].examples == 8


def test_duplicates_are_treated_as_the_flag_says(tmp_path, capsys):
    for i, name in enumerate(("cat/0", "cat/1", "dog/0", "dog/1")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (i // 2 * i, 0, 0)).save(path)
    words = [f"--data={tmp_path}", "--on_duplicates=error", "--holdout=0.5"]
    assert main([*words, f"--out={tmp_path / 'p.png'}"]) == 2
    assert "on_duplicates" in capsys.readouterr().err


def test_images_are_mixed_with_their_neighbors(source, tiny_recipe):
    phase = dataclasses.replace(make_phases(tiny_recipe, source.examples)[1], mixup=1.0, cutmix=1.0)
    recipe = dataclasses.replace(tiny_recipe, label_smoothing=0.0)
    _, weights = preview.first_images(recipe, source, phase, images=8)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert ((weights > 0.01) & (weights < 0.99)).any()


@pytest.mark.parametrize(
    ("weights", "caption"),
    [
        ([0.0, 1.0, 0.0], "dog"),
        ([0.63, 0.37, 0.0], ".63 cat + .37 dog"),
        ([0.998, 0.002, 0.0], "cat"),
        ([0.0, 0.996, 0.004], "dog"),
        ([0.5, 0.0, 0.5], ".50 cat + .50 Americ…"),
    ],
)
def test_captions_name_the_labels_of_the_largest_weight(weights, caption):
    classes = ("cat", "dog", "American Staffordshire terrier")
    assert preview._caption(classes, np.array(weights)) == caption


@pytest.mark.parametrize(
    ("path", "images", "message"),
    [
        ("g.png", 7, "images must be even .* got 7"),
        ("g.png", 0, "images must be even .* got 0"),
        ("g.jpg", 4, r"g\.jpg must have the ending \.png"),
        (os.path.join("no", "g.png"), 4, "folder no does not exist: create it"),
    ],
)
def test_bad_arguments_are_errors_before_drawing(source, tiny_recipe, path, images, message):
    with pytest.raises(ValueError, match=message):
        preview.draw_preview(tiny_recipe, source, path, images=images)


def test_a_missing_keras_cv_is_an_error(source, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ValueError, match="preview needs keras_cv, which cannot be imported"):
        preview.draw_preview(tiny_recipe, source, tmp_path / "g.png")


def test_the_command_needs_data(capsys):
    assert main(["--recipe=digits"]) == 2
    assert "effnet-train preview: --data is missing" in capsys.readouterr().err
    assert main(["--data=/nowhere", "--out=x.jpg", "--recip=digits"]) == 2
    assert "recip" in capsys.readouterr().err


@pytest.mark.slow  # imports keras_cv
@pytest.mark.parametrize("augments", ["randaugment", "keras_cv"])
def test_the_command_draws_every_phase(tmp_path, capsys, augments, monkeypatch):
    import matplotlib
    from matplotlib import image

    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    random = np.random.default_rng(0)
    data = tmp_path / "d.npz"
    pixels = random.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    np.savez(data, images=pixels, labels=np.arange(24) % 3)
    out = tmp_path / "g.png"
    arguments = ["--recipe=digits", "--phases=3", f"--augment={augments}", "--cutmix_last=1"]
    assert main([*arguments, f"--data={data}", f"--out={out}", "--images=4"]) == 0
    assert matplotlib.get_backend() == "svg"  # the caller's
    assert capsys.readouterr().out.endswith(f"{out}\n")
    assert sorted(os.listdir(tmp_path)) == ["d.npz", "g.png"]
    picture = image.imread(out)
    assert picture.shape[0] > 3 * 1.5 * preview._DPI
    assert picture.shape[1] > 4 * 1.5 * preview._DPI
    assert (picture[..., :3].std((0, 1)) > 0.05).all()  # not blank


def test_headings_have_the_settings_of_their_phase(tiny_recipe):
    phase = make_phases(tiny_recipe, 24)[1]
    for name in ("randaugment", "autoaugment", "keras_cv", "none"):
        heading = preview._heading(dataclasses.replace(tiny_recipe, augment=name), phase)
        assert heading.startswith("phase 2:  40 px,  ")
        assert heading.endswith("mixup 0.4,  CutMix 1")
