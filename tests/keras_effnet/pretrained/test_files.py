import dataclasses
import re
import warnings

import numpy as np
import pytest

from keras_effnet.constructors import create_model


def _numbers(tensor):
    return np.array(tensor)


@pytest.fixture
def theirs(small, by_applications, tame, keras):
    """A small network of keras.applications' own, with weights."""
    model = by_applications(small, (64, 64, 3), classes=5)
    tame(model)
    return model


@pytest.fixture
def ours(small, keras):
    return create_model(small, classes=5, classifier_activation=None)


@pytest.fixture
def mine(tiny, keras):
    return create_model(tiny, classes=5)


@pytest.fixture
def refuses(keras):
    """refuses(model, path, said): loading raises ValueError, and the weights are as before."""
    from keras_effnet.pretrained.files import load_weights

    def check(model, path, *said):
        before = model.get_weights()
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            load_weights(model, path)
        for text in said:
            assert text in str(error.value)
        for a, b in zip(before, model.get_weights()):
            np.testing.assert_array_equal(a, b)
        return str(error.value)

    return check


LAYOUTS = ["legacy.h5", "whole.h5", "x.weights.h5", "x.keras"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keras_applications_files_give_the_same_answers(
    theirs, ours, small, layout, images, tmp_path, write_legacy_h5
):
    path = _write(theirs, tmp_path / layout, write_legacy_h5)
    x = images(64)
    want = _numbers(theirs(x))
    assert np.abs(_numbers(ours(x)) - want).max() > 1e-3
    loaded = create_model(small, classes=5, classifier_activation=None, weights=path)
    np.testing.assert_allclose(_numbers(loaded(x)), want, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_own_files_come_back_exactly(mine, tiny, layout, tame, tmp_path, write_legacy_h5):
    tame(mine)
    path = _write(mine, tmp_path / layout, write_legacy_h5)
    again = create_model(tiny, classes=5, weights=str(path))
    for a, b in zip(again.get_weights(), mine.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow_only("JAX compiles every operation of two networks; the small ones run")
def test_a_released_layout_of_a_published_network_loads(
    keras, images, tame, tmp_path, write_legacy_h5
):
    theirs = keras.applications.EfficientNetB0(
        weights=None, input_shape=(64, 64, 3), include_top=False
    )
    tame(theirs)
    write_legacy_h5(theirs, tmp_path / "notop.h5")
    ours = create_model("efficientnet-b0", include_top=False, weights=tmp_path / "notop.h5")
    want = _numbers(theirs(images(64)))
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(_numbers(ours(images(64))) / scale, want / scale, atol=1e-5)


def test_the_files_normalisation_constants_are_left_in_the_file(
    theirs, ours, tmp_path, write_legacy_h5
):
    """Released V1 files hold the deviation where the variance belongs (tensorflow#49930)."""
    write_legacy_h5(theirs, tmp_path / "x.h5")
    before = ours.get_layer("normalization").get_config()
    from keras_effnet.pretrained.files import load_weights

    load_weights(ours, tmp_path / "x.h5")
    assert ours.get_layer("normalization").get_config() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_class_count_names_the_classifier_and_its_shapes(
    mine, tiny, layout, tmp_path, refuses, write_legacy_h5
):
    path = _write(mine, tmp_path / layout, write_legacy_h5)
    other = create_model(tiny, classes=7)
    said = refuses(other, path, "predictions has shapes", "5)", "7)", "1 differences")
    assert "stem_conv" not in said


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_variant_names_every_layer_that_differs(
    mine, tiny, layout, tmp_path, refuses, write_legacy_h5
):
    path = _write(mine, tmp_path / layout, write_legacy_h5)
    wider = dataclasses.replace(tiny, name="wider", width=2.0, stages=tiny.stages[:1])
    model = create_model(wider, classes=5)
    refuses(model, path, "stem_conv has shapes", "top_conv has shapes", "left over", "wider")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_headless_file_lacks_the_classifier(
    tiny, layout, mine, tmp_path, refuses, write_legacy_h5
):
    headless = create_model(tiny, include_top=False)
    path = _write(headless, tmp_path / layout, write_legacy_h5)
    refuses(mine, path, "predictions is missing", "1 differences")
    path = _write(mine, tmp_path / ("top_" + layout), write_legacy_h5)
    refuses(headless, path, "is left over", "1 differences")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_refused(mine, layout, tmp_path, refuses, write_legacy_h5):
    path = _write(mine, tmp_path / layout, write_legacy_h5)
    path.write_bytes(path.read_bytes()[:4000])
    refuses(mine, path, "truncated")


@pytest.mark.parametrize("name", ["x.h5", "x.weights.h5", "x.keras"])
def test_a_file_that_is_something_else_is_refused(mine, name, tmp_path, refuses):
    path = tmp_path / name
    path.write_text("<html>404</html>")
    refuses(mine, path, "another format")


def test_an_hdf5_file_without_weights_is_refused(mine, tmp_path, refuses):
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros(3)
    refuses(mine, tmp_path / "x.h5", "stem_conv is missing")


def test_another_kind_of_file_is_told_where_to_go(mine, tmp_path, refuses):
    (tmp_path / "x.safetensors").write_bytes(b"")
    refuses(mine, tmp_path / "x.safetensors", "effnet port")


def test_a_tampered_file_is_refused(mine, tmp_path, refuses, write_legacy_h5):
    import h5py

    write_legacy_h5(mine, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["stem_conv"]
    refuses(mine, tmp_path / "x.h5", "damaged")


@pytest.mark.parametrize(
    ("variant", "weights", "said"),
    [
        ("efficientnet-b0", "imagenett", "Did you mean 'imagenet'"),
        ("efficientnet-b0", "nothing/here.h5", "no file has that name"),
        ("efficientnet-l2", "imagenet", "2 released sets"),
        ("efficientnet-b0", True, "weights True is neither"),
        ("efficientnet-b0", 5, "weights 5 is neither"),
    ],
)
def test_unknown_weights_are_told_with_the_way_out(keras, variant, weights, said):
    with pytest.raises(ValueError, match=said):
        create_model(variant, weights=weights)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_class_count_keeps_the_body_and_says_that_the_head_is_new(
    mine, tiny, layout, tame, tmp_path, write_legacy_h5
):
    tame(mine)
    path = _write(mine, tmp_path / layout, write_legacy_h5)
    with pytest.warns(UserWarning, match=r"has 5 classes: the classifier of 7 classes starts at"):
        other = create_model(tiny, classes=7, weights=path)
    assert other.output_shape == (None, 7)
    assert np.abs(other.get_layer("predictions").get_weights()[0]).max() > 0
    for a, b in zip(other.get_weights()[:-2], mine.get_weights()[:-2]):
        np.testing.assert_array_equal(a, b)


def test_a_headless_file_gives_a_classifier_at_random_and_says_so(
    tiny, tame, tmp_path, write_legacy_h5
):
    headless = create_model(tiny, include_top=False)
    write_legacy_h5(headless, tmp_path / "x.h5")
    with pytest.warns(UserWarning, match="has no classifier"):
        create_model(tiny, classes=3, weights=tmp_path / "x.h5")


def test_a_headless_model_leaves_the_classifier_in_the_file(mine, tiny, tmp_path, write_legacy_h5):
    write_legacy_h5(mine, tmp_path / "x.h5")
    headless = create_model(tiny, include_top=False, weights=tmp_path / "x.h5")
    for a, b in zip(headless.get_weights(), mine.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("stored", "index", "ours"), [(1001, 5, 4), (21843, 368, 1)])
def test_a_classifier_of_1001_or_21843_is_mapped_to_the_1000(
    keras, tiny, stored, index, ours, images, tmp_path, write_legacy_h5
):
    source = create_model(tiny, classes=stored, classifier_activation=None)
    write_legacy_h5(source, tmp_path / "x.h5")
    model = create_model(tiny, classifier_activation=None, weights=tmp_path / "x.h5")
    have, want = _numbers(model(images(32))), _numbers(source(images(32)))
    np.testing.assert_allclose(have[:, ours], want[:, index], atol=1e-5)
    if stored == 21843:  # teddy bear is not among them, and shall not win
        assert (have[:, 850] < np.delete(have, 850, axis=1).min(axis=1)).all()


def test_a_grey_stem_answers_as_the_coloured_one_did_of_grey_images(
    mine, tiny, images, tame, tmp_path, write_legacy_h5
):
    tame(mine)
    write_legacy_h5(mine, tmp_path / "x.h5")
    grey = create_model(tiny, classes=5, input_shape=(32, 32, 1), weights=tmp_path / "x.h5")
    six = create_model(tiny, classes=5, input_shape=(32, 32, 6), weights=tmp_path / "x.h5")
    kernel = mine.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(
        grey.get_layer("stem_conv").get_weights()[0][:, :, 0], kernel.sum(axis=2), rtol=1e-6
    )
    np.testing.assert_allclose(
        six.get_layer("stem_conv").get_weights()[0],
        np.concatenate([kernel, kernel], axis=2) / 2,
        rtol=1e-6,
    )


def test_a_wrong_variant_is_not_adapted_but_refused(mine, tiny, tmp_path, write_legacy_h5):
    write_legacy_h5(mine, tmp_path / "x.h5")
    wider = dataclasses.replace(tiny, name="wider", width=2.0)
    with pytest.raises(ValueError, match="stem_conv has shapes"):
        create_model(wider, classes=3, weights=tmp_path / "x.h5")


def _write(model, path, write_legacy_h5):
    if path.name.endswith("legacy.h5"):
        write_legacy_h5(model, path)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(str(path))
    else:
        _save_whole(model, path)
    return path


def _save_whole(model, path):
    import warnings

    with warnings.catch_warnings():
        # ".h5 is legacy": that is why it is tried. keras.initializers: Keras 2.15's own V2.
        warnings.filterwarnings("ignore", ".*legacy.*|.*HDF5 file.*|The `keras.initializers.seria")
        model.save(str(path))


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2S"])
def test_a_saved_model_of_keras_applications_sees_the_same_pixels(keras, tmp_path, name):
    """Their preprocessing is a rescaling, with or without a normalization behind it."""
    keras.utils.set_random_seed(0)
    theirs = getattr(keras.applications, name)(
        weights=None, classes=5, input_shape=(32, 32, 3), classifier_activation=None
    )
    with warnings.catch_warnings():  # Keras 2.15 warns of its own initializers
        warnings.simplefilter("ignore")
        theirs.save(tmp_path / "theirs.keras")
    ours = create_model(
        {"EfficientNetB0": "efficientnet-b0", "EfficientNetV2B0": "efficientnetv2-b0"}.get(
            name, "efficientnetv2-s"
        ),
        weights=tmp_path / "theirs.keras",
        classes=5,
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    want, got = (_numbers(model(images)) for model in (theirs, ours))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
