import dataclasses
import importlib

import pytest

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.pretrained.registry import (
    PRETRAINED_WEIGHTS,
    best_weights,
    default_preprocessing,
    list_weights,
)
from keras_effnet.variants import VARIANTS


@pytest.mark.every_stack
def test_keras_files_and_hashes_are_keras_applications(keras):
    modules = {
        v1: importlib.import_module("keras.src.applications.efficientnet" + ("" if v1 else "_v2"))
        for v1 in (True, False)
    }
    rows = [row for row in PRETRAINED_WEIGHTS.values() if row.url.endswith(".h5")]
    assert len(rows) == 15
    for row in rows:
        assert row.name == "imagenet"
        v1 = "v2" not in row.variant
        assert (row.md5, row.notop_md5) == tuple(modules[v1].WEIGHTS_HASHES[row.variant[-2:]])
        file = row.variant.replace("-", "") if v1 else row.variant
        assert row.url == modules[v1].BASE_WEIGHTS_PATH + file + ".h5"
        assert row.notop_url == modules[v1].BASE_WEIGHTS_PATH + file + "_notop.h5"


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("imagenet", "b0 b1 b2 b3 b4 b5 b6 b7 lite0 lite1 lite2 lite3 lite4"),
        ("baseline", "b0 b1 b2 b3 b4 b5"),
        ("autoaugment", "b0 b1 b2 b3 b4 b5 b6 b7"),
        ("randaugment", "b5 b7"),
        ("advprop", "b0 b1 b2 b3 b4 b5 b6 b7 b8"),
        ("noisy-student", "b0 b1 b2 b3 b4 b5 b6 b7 l2"),
        ("noisy-student-475", "l2"),
        ("imagenet-pypi", "lite0 lite1 lite2"),
    ],
)
def test_all_published_v1_weights_are_listed(name, endings):
    have = [v.split("-")[1] for v, n in PRETRAINED_WEIGHTS if n == name and "v2" not in v]
    assert have == endings.split()


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("imagenet", "b0 b1 b2 b3 s m l"),
        ("imagenet-official", "b0 b1 b2 b3 s m l"),
        ("imagenet21k", "b0 b1 b2 b3 s m l xl"),
        ("imagenet21k-ft1k", "b0 b1 b2 b3 s m l xl"),
    ],
)
def test_all_published_v2_weights_are_listed(name, endings):
    have = [v.split("-")[1] for v, n in PRETRAINED_WEIGHTS if n == name and "v2" in v]
    assert have == endings.split()


def test_every_row_is_complete():
    for (variant, name), row in PRETRAINED_WEIGHTS.items():
        assert (row.variant, row.name) == (variant, name)
        assert variant in VARIANTS
        address = "pkg:pypi/" if name == "imagenet-pypi" else "https://storage.googleapis.com/"
        assert row.url.startswith(address)
        assert row.classes == (21843 if name == "imagenet21k" else 1000)
        assert row.top1 is None or 70 < row.top1 < 90
        assert row.licence
        assert row.source
    assert len({row.url for row in PRETRAINED_WEIGHTS.values()}) == len(PRETRAINED_WEIGHTS)


def test_preprocessing_belongs_to_the_weights():
    def of(variant, name):
        row = PRETRAINED_WEIGHTS[variant, name]
        return row.normalization.mean[0], row.preprocessing.crop, row.preprocessing.interpolation

    assert of("efficientnet-b0", "autoaugment") == (123.675, 0.875, "bicubic")
    assert of("efficientnet-b0", "advprop") == (127.5, 0.875, "bicubic")
    assert of("efficientnetv2-b0", "imagenet") == (123.675, 0.875, "bicubic")
    assert of("efficientnetv2-b0", "imagenet21k") == (128, 0.875, "bilinear")
    assert of("efficientnetv2-b0", "imagenet21k-ft1k") == (127.5, None, "bilinear")
    assert of("efficientnetv2-s", "imagenet") == (128, None, "bilinear")
    assert PRETRAINED_WEIGHTS["efficientnetv2-s", "imagenet21k"].preprocessing.image_size == 224
    assert (
        PRETRAINED_WEIGHTS["efficientnet-l2", "noisy-student-475"].preprocessing.image_size == 475
    )


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("efficientnet-b0", "noisy-student"),
        ("efficientnet-b8", "advprop"),
        ("efficientnet-l2", "noisy-student"),
        ("efficientnet-lite0", "imagenet"),
        ("efficientnetv2-b0", "imagenet"),
        ("efficientnetv2-xl", "imagenet21k-ft1k"),
    ],
)
def test_auto_selects_the_best_published_accuracy(variant, name):
    assert best_weights(variant).name == name


def test_a_custom_variant_has_no_pretrained_weights():
    assert list_weights("mine") == []
    assert best_weights("mine") is None


def test_without_weights_images_are_prepared_as_the_variant_states(tiny):
    assert default_preprocessing(VARIANTS["efficientnet-b3"]).crop == 0.9036
    assert default_preprocessing(tiny) == Preprocessing(32, None, "bilinear")


@pytest.mark.parametrize("name", ["efficientnetv2-b10", "anything"])
def test_the_evaluation_crop_does_not_depend_on_the_name(name, monkeypatch):
    for row, expected in (
        ("efficientnetv2-b3", Preprocessing(300, 0.9036, "bicubic")),
        ("efficientnetv2-s", Preprocessing(384, None, "bilinear")),
    ):
        variant = dataclasses.replace(VARIANTS[row], name=name)
        monkeypatch.setitem(VARIANTS, name, variant)
        assert default_preprocessing(variant) == expected, row
