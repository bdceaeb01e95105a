import doctest
import importlib
import inspect
import pathlib

import pytest

import keras_effnet

ROOT = pathlib.Path(keras_effnet.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"  # runs the command
)
PURE = {"variants", "network_plan", "model_cost", "scaling", "labels", "pretrained.registry"}


@pytest.mark.parametrize("stem", MODULES)
def test_examples_in_docstrings_run(keras, stem):
    if stem not in PURE and keras.__version__[0] != "2" and keras.backend.backend() == "jax":
        pytest.skip("builds whole networks, which JAX compiles operation by operation")
    name = f"keras_effnet.{stem}".replace(".__init__", "")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_public_function_has_an_example():
    """The 23 constructors share one docstring; create_model has the example."""
    without = [
        name
        for name in keras_effnet.__all__
        if inspect.isfunction(function := getattr(keras_effnet, name))
        and not name.startswith("EfficientNet")
        and ">>>" not in function.__doc__
    ]
    assert without == []
