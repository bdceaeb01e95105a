"""What --model and --weights refer to; the checks that need no Keras."""

from __future__ import annotations

import os

from keras_effnet.keras_file import check_keras_file
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.scaling import scale
from keras_effnet.variant_lookup import find_variant
from keras_effnet.variants import Variant
from tpu_train.imported_function import check_name
from tpu_train.recipes.schema import Recipe, model_kind

WEIGHT_FILES = (".keras", ".h5")  # .weights.h5 too


def check_source(recipe: Recipe) -> None:
    """Raises ``ValueError`` if the recipe's model, its initial weights or its teacher do not exist.

    Imports no Keras, and so not the module of ``module:function``, which may.
    """
    if recipe.teacher:
        check_teacher("teacher", recipe.teacher)
    kind = model_kind(recipe.model)
    if kind == "variant":
        resolve_weights(variant_of(recipe).name, recipe.weights or None)
        if os.path.isfile(recipe.weights):
            _check_file("weights", recipe.weights)
        return
    if (recipe.width, recipe.depth) != (1, 1):
        raise ValueError(
            f"width {recipe.width} and depth {recipe.depth} scale networks of this package only; "
            f"leave both at 1 for {recipe.model}"
        )
    if kind == "function":
        check_name("model", recipe.model)
        if recipe.weights.endswith(WEIGHT_FILES):
            _check_file("weights", recipe.weights)
        elif recipe.weights == "auto":
            raise ValueError(
                f"weights 'auto' belong to networks of this package, not to {recipe.model}: give "
                "a file, a name that the function knows, e.g. imagenet, or --weights= for none"
            )
        return
    _check_file("model", recipe.model)
    if recipe.weights not in ("", "auto"):
        raise ValueError(
            f"the weights are those in {recipe.model}: leave --weights={recipe.weights} out"
        )


def check_teacher(flag: str, path: str) -> None:
    """Raises ``ValueError`` unless the path of a teacher is that of a ``.keras`` file."""
    if os.path.isdir(path):
        inside = os.path.join(path, "model.keras")
        example = f": give {inside}" if os.path.isfile(inside) else ", not a .keras file"
        raise ValueError(f"--{flag}={path} is a folder{example}")
    if not os.path.isfile(path):
        raise ValueError(f"--{flag}={path}: there is no such file; give a .keras file")
    if not path.endswith(".keras"):
        raise ValueError(f"--{flag}={path} is not a .keras file: a teacher is a model.keras")
    check_keras_file(path)


def variant_of(recipe: Recipe) -> Variant:
    """The row of a network of this package, scaled by the recipe's width and depth."""
    if (recipe.width, recipe.depth) == (1, 1):
        return find_variant(recipe.model)
    return scale(recipe.model, width=recipe.width, depth=recipe.depth)


def _check_file(flag, path):
    if not os.path.isfile(path):
        raise ValueError(f"--{flag}={path}: there is no such file")
    if path.endswith(".keras"):
        check_keras_file(path)
    elif path.endswith(".h5"):
        import h5py  # only for such a file: the import takes a moment

        if not h5py.is_hdf5(path):
            raise ValueError(
                f"--{flag}={path} is not an .h5 file ({os.path.getsize(path):,} bytes: empty, "
                "truncated, or of another format): save or download it again"
            )
