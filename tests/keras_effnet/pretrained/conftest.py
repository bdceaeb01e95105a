"""Small models, and the layouts in which their weights are saved."""

import re
import warnings

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.pretrained.assign import load_weights


@pytest.fixture
def theirs(small, by_applications, tame, keras):
    """A small network built by keras.applications, with weights."""
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
def layouts():
    """File names; a name determines the layout, see `save`."""
    return "legacy.h5", "model.h5", "x.weights.h5", "x.keras"


@pytest.fixture
def save(write_legacy_h5):
    """save(model, path): writes a file in the layout of its name, and returns the path."""

    def write(model, path):
        if path.name.endswith("legacy.h5"):
            write_legacy_h5(model, path)
        elif path.name.endswith(".weights.h5"):
            model.save_weights(str(path))
        else:
            with warnings.catch_warnings():
                # ".h5 is legacy" is intended; keras.initializers: Keras 2.15's own V2
                warnings.filterwarnings(
                    "ignore", ".*legacy.*|.*HDF5 file.*|The `keras.initializers.seria"
                )
                model.save(str(path))
        return path

    return write


@pytest.fixture
def rejects(keras):
    """rejects(model, path, message): loading raises ValueError and changes no weight."""

    def check(model, path, *message):
        before = model.get_weights()
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            load_weights(model, path)
        for text in message:
            assert text in str(error.value)
        for a, b in zip(before, model.get_weights()):
            np.testing.assert_array_equal(a, b)
        return str(error.value)

    return check
