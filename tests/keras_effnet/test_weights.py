import dataclasses
import hashlib
import importlib
import re

import numpy as np
import pytest

from keras_effnet.api import create_model


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
    from keras_effnet.weights import load_weights

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
    from keras_effnet.weights import load_weights

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


@pytest.mark.parametrize(
    ("variant", "weights", "said"),
    [
        ("efficientnet-b0", "imagenett", "Did you mean 'imagenet'"),
        ("efficientnet-b0", "nothing/here.h5", "no file has that name"),
        ("efficientnet-l2", "imagenet", "0 released sets"),
        ("efficientnet-b0", True, "weights True is neither"),
        ("efficientnet-b0", 5, "weights 5 is neither"),
    ],
)
def test_unknown_weights_are_told_with_the_way_out(keras, variant, weights, said):
    with pytest.raises(ValueError, match=said):
        create_model(variant, weights=weights)


def test_every_released_file_is_keras_applications_with_its_hash(keras):
    from keras_effnet.weights import WEIGHT_SETS

    assert len(WEIGHT_SETS) == 15
    modules = {
        v1: importlib.import_module("keras.src.applications.efficientnet" + ("" if v1 else "_v2"))
        for v1 in (True, False)
    }
    for (variant, name), row in WEIGHT_SETS.items():
        assert name == "imagenet"
        v1 = "v2" not in variant
        hashes = modules[v1].WEIGHTS_HASHES[variant[-2:]]
        assert (row.top_md5, row.notop_md5) == tuple(hashes)
        assert row.url == modules[v1].BASE_WEIGHTS_PATH + (
            variant.replace("-", "") if v1 else variant
        )


@pytest.fixture
def released(keras, tiny, tame, tmp_path, monkeypatch, write_legacy_h5):
    """A weight set of the TINY variant on a file:// server, with an empty cache of its own."""
    from keras_effnet.weights import WEIGHT_SETS, WeightSet

    server = tmp_path / "server"
    cache = tmp_path / "cache"
    for folder in (server, cache):  # without its cache Keras would take /tmp/.keras instead
        folder.mkdir()
    whole, headless = create_model(tiny), create_model(tiny, include_top=False)
    for model in (whole, headless):
        tame(model)
    write_legacy_h5(whole, server / "tiny.h5")
    write_legacy_h5(headless, server / "tiny_notop.h5")
    md5 = [hashlib.md5((server / f"tiny{s}.h5").read_bytes()).hexdigest() for s in ("", "_notop")]
    monkeypatch.setitem(WEIGHT_SETS, ("tiny", "own"), WeightSet((server / "tiny").as_uri(), *md5))
    get_file = keras.utils.get_file

    def cached(*args, **kwargs):
        return get_file(*args, cache_dir=str(cache), **kwargs)

    monkeypatch.setattr(keras.utils, "get_file", cached)
    return whole, headless, server


def test_a_released_set_is_downloaded_checked_and_loaded(keras, released, tiny, images):
    whole, headless, _ = released
    x = images(32)
    np.testing.assert_array_equal(
        _numbers(create_model(tiny, weights="own")(x)), _numbers(whole(x))
    )
    loaded = create_model(tiny, weights="own", include_top=False)
    np.testing.assert_array_equal(_numbers(loaded(x)), _numbers(headless(x)))


def test_a_download_with_the_wrong_hash_raises_and_is_not_used(keras, released, tiny):
    *_, server = released
    (server / "tiny.h5").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"(?i)hash|corrupted"):
        create_model(tiny, weights="own")


def test_a_failed_download_raises_instead_of_giving_random_weights(keras, released, tiny):
    *_, server = released
    (server / "tiny.h5").unlink()
    with pytest.raises(Exception, match=r"tiny\.h5"):
        create_model(tiny, weights="own")


def test_a_set_of_1000_classes_is_refused_for_another_count(keras, released, tiny):
    with pytest.raises(ValueError, match="classes=10"):
        create_model(tiny, weights="own", classes=10)
    assert create_model(tiny, weights="own", include_top=False, classes=10).output_shape[-1] == 32


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
