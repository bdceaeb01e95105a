import pytest

from tflite.evaluation import plausibility


@pytest.mark.parametrize(
    ("top1", "images", "classes", "want"),
    [(0.1, 1000, 10, True), (0.2, 1000, 10, False), (0.0, 10, 10, True), (0.6, 20, 2, True),
     (0.9, 20, 2, False), (0.01, 1000, 1000, False)],
)  # fmt: skip
def test_top1_at_chance(top1, images, classes, want):
    assert plausibility.is_at_chance(top1, images, classes) is want
    assert f"{top1:.2%}" in plausibility.chance(top1, images, classes)


def test_pixels_that_nothing_scales_are_found(model):
    import keras

    assert plausibility.pixel_range(model, (32, 32, 3)) == ()
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]
    (found,) = plausibility.pixel_range(keras.Sequential(layers), (8, 8, 3))
    assert "Rescaling(1 / 255)" in found
    assert "normalizes pixels as in their training. A .tflite gets pixels" in found
    scaled = keras.Sequential([layers[0], keras.layers.Rescaling(1 / 255), layers[1]])
    assert plausibility.pixel_range(scaled, (8, 8, 3)) == ()
    assert plausibility.pixel_range(object(), (8, 8, 3)) == ()
