import importlib.util
import pkgutil

import pytest

import keras_effnet


@pytest.mark.every_stack
def test_every_module_can_be_imported():
    names = [m.name for m in pkgutil.walk_packages(keras_effnet.__path__, "keras_effnet.")]
    assert "keras_effnet.pretrained.resolve" in names
    if importlib.util.find_spec("gradio") is None:  # of the extra `demo`
        names.remove("keras_effnet.demo.page")
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
