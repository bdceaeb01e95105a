import doctest
import importlib
import pathlib

import pytest

import keras_effnet

MODULES = sorted(p.stem for p in pathlib.Path(keras_effnet.__file__).parent.glob("*.py"))
PURE = {"variants", "plan", "cost", "cli"}


@pytest.mark.parametrize("stem", MODULES)
def test_examples_in_docstrings_run(keras, stem):
    if stem not in PURE and keras.__version__[0] != "2" and keras.backend.backend() == "jax":
        pytest.skip("builds whole networks, which JAX compiles operation by operation")
    name = "keras_effnet" if stem == "__init__" else f"keras_effnet.{stem}"
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_main_modules_have_examples():
    for name in (
        "keras_effnet",
        *(f"keras_effnet.{s}" for s in ("api", "cost", "plan", "variants")),
    ):
        finder = doctest.DocTestFinder()
        assert any(t.examples for t in finder.find(importlib.import_module(name))), name
