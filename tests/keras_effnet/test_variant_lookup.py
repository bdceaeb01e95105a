"""Names and files of variants: what is found, and the error for an unknown name."""

import pytest

from keras_effnet.search_space import SPACES
from keras_effnet.suggestions import unknown_name
from keras_effnet.variant_file import write_variant
from keras_effnet.variant_lookup import find_variant, list_models
from keras_effnet.variants import VARIANTS


def test_list_models_filters_by_pattern_in_table_order():
    assert list_models() == list(VARIANTS)
    assert list_models("*-l*") == [
        "efficientnet-l2", *[f"efficientnet-lite{i}" for i in range(5)], "efficientnetv2-l",
    ]  # fmt: skip
    assert list_models("nothing") == []


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("efficientnetb3", "'efficientnet-b3'"),
        ("EfficientNetV2-M", "'efficientnetv2-m'"),
        ("efficientnet-light0", "'efficientnet-lite0'"),
    ],
)
def test_an_unknown_model_names_the_nearest(typo, nearest):
    with pytest.raises(ValueError, match="Did you mean") as error:
        find_variant(typo)
    assert nearest in str(error.value)
    assert "efficientnetv2-xl" in str(error.value)  # the message names all variants


def test_the_path_of_a_missing_file_is_no_unknown_name(tmp_path):
    for ending in (".keras", ".h5", ".tflite"):
        path = tmp_path / f"model{ending}"
        with pytest.raises(
            ValueError, match="does not exist: give the path of a model file, or a name"
        ):
            find_variant(path)
        path.touch()  # this function does not read it
        with pytest.raises(ValueError, match="Unknown model"):
            find_variant(str(path))


def test_a_folder_is_no_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give the path of a model file, or a name"):
        find_variant(tmp_path)
    (tmp_path / "best.keras").touch()
    with pytest.raises(ValueError, match=r"is a folder: give .*best\.keras$"):
        find_variant(str(tmp_path))
    with pytest.raises(ValueError, match="'runs/1' does not exist: give the path"):
        find_variant("runs/1")


def test_a_dissimilar_name_gets_no_suggestion():
    assert "Did you mean" not in unknown_name("model", "resnet50", VARIANTS)


def test_a_json_file_is_accepted_like_a_name(tmp_path):
    point = SPACES["small"].sample(1)
    write_variant(tmp_path / "best.json", point)
    assert find_variant(tmp_path / "best.json") == point
    assert find_variant(str(tmp_path / "best.json")) == point
    assert find_variant(point) is point
