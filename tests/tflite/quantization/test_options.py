import pytest

from tflite.presets import find_preset
from tflite.quantization.options import ConversionOptions


def test_unknown_keywords_are_errors_with_the_nearest_name():
    with pytest.raises(TypeError, match=r"Unknown option 'finetuning'. Did you mean 'finetune'"):
        ConversionOptions.from_keywords(finetuning=True)
    assert ConversionOptions.from_keywords(finetune=True).finetune is True


def test_time_limit_of_earlier_versions_names_its_replacement():
    with pytest.raises(TypeError, match=r"replaced by search_evaluations.*busy machine"):
        ConversionOptions.from_keywords(search_seconds=10)
    with pytest.raises(ValueError, match="search_evaluations must be at least 0, got -1"):
        ConversionOptions(search_evaluations=-1)


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [("int8", None, 512), ("int8_mixed", None, 2048), ("int8_mixed", 100, 100)],
)
def test_number_of_calibration_images_depends_on_the_preset(preset, given, expected):
    options = ConversionOptions(calibration_images=given)
    assert options.max_calibration_images(find_preset(preset)) == expected


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [("int8", None, False), ("int8_strict", None, True), ("int8", True, True),
     ("int8_strict", False, False)],
)  # fmt: skip
def test_only_strict_int8_is_finetuned_by_default(preset, given, expected):
    assert ConversionOptions(finetune=given).finetunes(find_preset(preset)) is expected
