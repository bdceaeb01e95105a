"""Exports a model to ONNX such that the image is its only input.

Keras exports with tf2onnx, which makes an input of every tensor that a traced function captures.
A ``Normalization`` layer keeps its constants as tensors; NumPy arrays would be constants of the
graph. They replace the tensors during an export only: as constants of a compiled graph they would
change the last bit of predictions, since compilers replace divisions by known numbers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from keras_effnet.float32_copy import in_float32
from keras_effnet.model_graph import require_model


def export_onnx(model, path: str | os.PathLike[str], **options) -> None:
    """Writes a ``keras.Model`` as an ONNX file whose only inputs are the model's.

    Works for any model, loaded or built around others, with ``Normalization`` layers anywhere in
    it. `options` are those of Keras's ``model.export(path, format="onnx")``, of which models of
    this package make use here: their ``export`` method does the same. A mixed-precision model is
    written in float32: ONNX Runtime has no bfloat16 convolution. Requires Keras 3 and the packages
    onnx and tf2onnx.

    Raises:
        ValueError: `model` is not a model, or `path` is an existing file whose name does not end in
            ``.onnx``.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0", input_shape=(None, None, 3))
    >>> export_onnx(model, "model.onnx")  # doctest: +SKIP
    """
    require_model(model)
    _export(model, path, format="onnx", **options)


def exportable(model):
    """The model; its ``export(path, format="onnx")`` is that of :func:`export_onnx`."""
    import keras

    if not keras.__version__.startswith("2."):  # Keras 2 has no formats

        def export(filepath, *args, **options):
            return _export(model, filepath, *args, **options)

        export.__doc__ = type(model).export.__doc__
        model.export = export
    return model


def _export(model, path, *args, **options):
    chosen = args[0] if args else options.get("format")
    if chosen != "onnx":
        return type(model).export(model, path, *args, **options)
    path = os.fspath(path)
    if os.path.exists(path) and not path.endswith(".onnx"):
        raise ValueError(
            f"{path} exists and is not named .onnx: it would be overwritten. Give another path"
        )
    model = in_float32(model)
    if not getattr(model, "_called", True):  # Keras refuses a model that was never called
        model(np.zeros([n or 64 for n in (1, *model.input_shape[1:])], "float32"), training=False)
    with _constants(model):
        return type(model).export(model, path, *args, **options)


@contextlib.contextmanager
def _constants(model) -> Iterator[None]:
    """The ``Normalization`` layers of a model compute with NumPy arrays."""
    import keras

    layers = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Normalization)]
    layers = [layer for layer in layers if layer.mean is not None]
    if keras.backend.backend() != "tensorflow":
        layers = []
    tensors = [(layer.mean, layer.variance) for layer in layers]
    try:
        for layer, (mean, variance) in zip(layers, tensors):
            layer.mean, layer.variance = np.asarray(mean), np.asarray(variance)
        yield
    finally:
        for layer, (mean, variance) in zip(layers, tensors):
            layer.mean, layer.variance = mean, variance
