"""The preprocessing and normalization that a file states."""

import warnings

import h5py
import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.pretrained.files import write_weights
from keras_effnet.pretrained.input_spec import ATTRIBUTE, InputSpec, read_input_spec
from keras_effnet.variants import Normalization

pytestmark = pytest.mark.every_stack


def test_written_files_state_their_input_spec(tmp_path):
    input_spec = InputSpec(
        Preprocessing(48, 0.875, "bicubic"), Normalization((127.5,) * 3, (63.75,) * 3)
    )
    write_weights(tmp_path / "x.h5", {"stem_conv": [np.zeros(3)]}, input_spec)
    assert read_input_spec(tmp_path / "x.h5") == input_spec


@pytest.mark.parametrize("name", ["x.h5", "x.keras"])
def test_an_unreadable_file_states_nothing(name, tmp_path):
    (tmp_path / name).write_text("<html>404</html>")
    assert read_input_spec(tmp_path / name) == InputSpec(None, None)


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        (ATTRIBUTE, "{}"),
        (ATTRIBUTE, "[]"),
        (ATTRIBUTE, '{"preprocessing": "normalization", "mean": 1, "std": 2}'),
        ("model_config", "5"),
        ("model_config", '{"name": "rescaling", "scale": "x"}'),
    ],
)
def test_attributes_of_other_programs_state_nothing(attribute, text, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs[attribute] = text
    assert read_input_spec(tmp_path / "x.h5") == InputSpec()


@pytest.mark.parametrize("suffix", ["b", "s"])
def test_a_saved_keras_applications_model_normalizes_the_same(
    keras, small, by_applications, tmp_path, suffix
):
    """Its preprocessing is a rescaling, with or without a normalization after it; V2's depends on
    the suffix of the name.
    """
    theirs = by_applications(small, (64, 64, 3), classes=5, name=f"{small.name[:-1]}{suffix}")
    with warnings.catch_warnings():  # Keras 2.15 warns about its initializers
        warnings.simplefilter("ignore")
        theirs.save(tmp_path / "theirs.keras")
    ours = create_model(
        small,
        weights=tmp_path / "theirs.keras",
        classes=5,
        input_shape=(64, 64, 3),
        classifier_activation=None,
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    want, got = (np.array(model(images)) for model in (theirs, ours))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
