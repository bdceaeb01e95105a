"""The examples in the docstrings of all packages run."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib

import pytest

import keras_effnet

pytestmark = pytest.mark.every_stack

ROOT = pathlib.Path(__file__).parents[1]

if os.environ.get("KERAS_BACKEND") == "jax":
    pytest.skip("JAX compiles whole networks operation by operation", allow_module_level=True)


def _has_example(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return any(
        ">>>" in (ast.get_docstring(node) or "")
        for node in ast.walk(tree)
        if isinstance(node, documented)
    )


def _modules():
    for package in ("keras_effnet", "tpu_train", "tflite"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if _has_example(path):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("module", _modules())
def test_docstring_examples_run(module):
    if module.startswith(("tflite", "keras_effnet.litert")):
        pytest.importorskip("ai_edge_litert")
        pytest.importorskip("ai_edge_quantizer")
    name = module[: -len(".__init__")] if module.endswith(".__init__") else module
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_has_an_example():
    """All networks share one text, and create_model has its example."""
    functions = {name: getattr(keras_effnet, name) for name in keras_effnet.__all__}
    without = [
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and not name.startswith("EfficientNet")
        and ">>>" not in function.__doc__
    ]
    assert without == []
