"""Every layout of weights is read, and every damaged or foreign file is rejected."""

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.pretrained.assign import load_weights

pytestmark = pytest.mark.every_stack


def test_keras_applications_files_give_the_same_outputs(
    theirs, ours, small, layouts, images, tmp_path, save
):
    x = images(64)
    want = np.array(theirs(x))
    random = ours.get_weights()
    for layout in layouts:
        ours.set_weights(random)
        assert np.abs(np.array(ours(x)) - want).max() > 1e-3
        load_weights(ours, save(theirs, tmp_path / layout))
        np.testing.assert_allclose(np.array(ours(x)), want, atol=1e-5, err_msg=layout)


def test_create_model_loads_a_keras_applications_file(theirs, small, images, tmp_path, save):
    path = save(theirs, tmp_path / "legacy.h5")
    loaded = create_model(small, classes=5, classifier_activation=None, weights=path)
    x = images(64)
    np.testing.assert_allclose(np.array(loaded(x)), np.array(theirs(x)), atol=1e-5)


def test_saved_weights_are_restored_exactly(mine, tiny, layouts, tame, tmp_path, save):
    tame(mine)
    for layout in layouts:
        again = create_model(tiny, classes=5, weights=str(save(mine, tmp_path / layout)))
        for a, b in zip(again.get_weights(), mine.get_weights()):
            np.testing.assert_array_equal(a, b, err_msg=layout)


@pytest.mark.slow
@pytest.mark.tensorflow_only("JAX compiles every operation of two networks; the small ones run")
def test_a_keras_applications_notop_file_loads(keras, images, tame, tmp_path, write_legacy_h5):
    theirs = keras.applications.EfficientNetB0(
        weights=None, input_shape=(64, 64, 3), include_top=False
    )
    tame(theirs)
    write_legacy_h5(theirs, tmp_path / "notop.h5")
    ours = create_model("efficientnet-b0", include_top=False, weights=tmp_path / "notop.h5")
    want = np.array(theirs(images(64)))
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(np.array(ours(images(64))) / scale, want / scale, atol=1e-5)


def test_truncated_files_are_rejected(mine, layouts, tmp_path, rejects, save):
    for layout in layouts:
        path = save(mine, tmp_path / layout)
        path.write_bytes(path.read_bytes()[:4000])
        rejects(mine, path, "truncated")


@pytest.mark.parametrize("name", ["x.h5", "x.weights.h5", "x.keras"])
def test_files_of_another_format_are_rejected(mine, name, tmp_path, rejects):
    path = tmp_path / name
    path.write_text("<html>404</html>")
    rejects(mine, path, "another format")


def test_an_hdf5_file_without_weights_is_rejected(mine, tmp_path, rejects):
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros(3)
    rejects(mine, tmp_path / "x.h5", "stem_conv is missing")


def test_other_suffixes_are_rejected_with_a_hint(mine, tmp_path, rejects):
    (tmp_path / "x.safetensors").write_bytes(b"")
    rejects(mine, tmp_path / "x.safetensors", "effnet port")


def test_damaged_files_are_rejected(mine, tmp_path, rejects, write_legacy_h5):
    import h5py

    write_legacy_h5(mine, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["stem_conv"]
    rejects(mine, tmp_path / "x.h5", "damaged")
