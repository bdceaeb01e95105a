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
        ({"evaluation": {"crop": 1}}, "v.json: "),
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
