"""Variants as JSON files: exact in both directions, one clear error for anything else."""

import json

import pytest

from keras_effnet.search_space import SPACES
from keras_effnet.variant_file import read_variant, write_variant
from keras_effnet.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_published_variants_survive_the_round_trip(name, tmp_path):
    write_variant(tmp_path / "v.json", VARIANTS[name])
    assert read_variant(tmp_path / "v.json") == VARIANTS[name]


def test_a_found_network_keeps_what_the_search_recorded(tmp_path):
    point = SPACES["small"].sample(2)
    write_variant(tmp_path / "v.json", point, accuracy=0.71, trial=5)
    assert read_variant(tmp_path / "v.json") == point
    extra = json.loads((tmp_path / "v.json").read_text())["extra"]
    assert extra == {"accuracy": 0.71, "trial": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keras_effnet_variant": 2}, "version 2 of the format"),
        ({"family": "v3"}, "Unknown family 'v3'"),
        ({"blocks": ["r1"]}, "lacks the kernel size"),
        ({"width": "wide"}, "width is 'wide', not a number"),
        ({"evaluation": {"crop": 1}}, "v.json: it lacks 'crop_padding'"),
        (
            {"evaluation": {"crop_padding": 32, "interpolation": "cubic"}},
            "interpolation is 'cubic'",
        ),
        ({"evaluation": []}, "v.json: "),
        ({"normalization": {"mean": [1], "std": [1, 1, 1]}}, r"mean is \[1\]: give three"),
        ({"normalization": {"mean": [1, 1, 1], "std": [0, 1, 1]}}, "std is 0: .* above 0"),
        ({"normalization": {"mean": ["a", 1, 1], "std": [1, 1, 1]}}, "mean is 'a', not a number"),
        ({"width": -1}, "width is -1: give a number above 0 and at most 20"),
        ({"width": float("nan")}, "width is nan: give a number above 0"),
        ({"depth": 1e6}, "depth is 1000000.0: give a number above 0 and at most 20"),
        ({"image_size": 0}, "image_size is 0: give a number of at least 1 and at most 4,096"),
        ({"image_size": 32.5}, "image_size is 32.5: give a whole number"),
        ({"head_filters": -3}, "head_filters is -3"),
        ({"bn_epsilon": 0}, "bn_epsilon is 0"),
        ({"dropout_rate": 1.5}, "v.json: dropout_rate is 1.5"),
        ({"padding": "valid"}, "v.json: padding is 'valid': give 'same' or 'symmetric'"),
        ({"name": None}, "name is None: give a text"),
        ({"name": "a\nb"}, "name is 'a\\\\nb': give a text"),
        ({"top1": "high"}, "top1 is 'high', not a number"),
        ({"blocks": ["r1_k3_s1_e1_i8_o999999"]}, "has 999,999 filters: give at most 100,000"),
        ({"blocks": ["r99999_k3_s1_e1_i8_o8"]}, "has 99,999 blocks: give at most 10,000"),
    ],
)
def test_a_changed_field_is_one_clear_error(change, message, tmp_path):
    path = tmp_path / "v.json"
    write_variant(path, VARIANTS["efficientnetv2-b0"])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_variant(path)


@pytest.mark.parametrize("field", ["name", "blocks", "head_filters", "normalization"])
def test_a_missing_field_is_named(field, tmp_path):
    path = tmp_path / "v.json"
    write_variant(path, VARIANTS["efficientnetv2-b0"])
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"it lacks '{field}'"):
        read_variant(path)


def test_truncated_missing_and_unrelated_files_are_told_apart(tmp_path):
    path = tmp_path / "v.json"
    with pytest.raises(ValueError, match=r"cannot read it \(No such file"):
        read_variant(path)
    write_variant(path, VARIANTS["efficientnetv2-b0"])
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="is not complete JSON"):
        read_variant(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="does not describe a network"):
        read_variant(path)
