"""Detects common pitfalls in a model and in one of its batches.

docs/common-pitfalls.md lists them, with the discussions in which they were reported. A finding is
reported only if the layers prove it: nothing is reported about an order of layers that is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from keras_effnet.batch_checks import check_batches
from keras_effnet.finding import Finding
from keras_effnet.model_graph import flat_layers, require_model
from keras_effnet.output_checks import check_labels, check_losses, check_outputs
from keras_effnet.pixel_flow import NARROWEST, Flow, trace_pixels

_LOG = logging.getLogger("keras_effnet")


def check_model(
    model, batch=None, *, labels=None, class_names: Sequence[str] | None = None
) -> list[Finding]:
    """Common pitfalls found in a ``keras.Model`` and its data; empty if there are none.

    Args:
        model: any ``keras.Model``: with or without a classifier, new, loaded or partly frozen, with
            any number of inputs. Of a subclassed model less is known than of a functional one. If
            it is compiled, its loss is checked against its outputs and labels.
        batch: images (batch, height, width, channels) as they will be given to the model; for
            several inputs a list, or a dict by input name.
        labels: their classes: whole numbers (batch,) or (batch, 1), or one-hot or several labels
            per image (batch, classes); for several outputs a list, or a dict by output name.
        class_names: the names of the classes, in order.

    Layers of unknown effect, e.g. ``Lambda``, are called with a black and a white image.

    Raises ``ValueError`` for an object that is not a ``keras.Model``, and nothing else.

    >>> import keras_effnet
    >>> model = keras_effnet.create_model("efficientnetv2-b0", input_shape=(32, 32, 3), classes=2)
    >>> [finding.check for finding in check_model(model, np.random.rand(2, 32, 32, 3))]
    ['scaled-twice']
    """
    require_model(model)
    flows = []
    _results(lambda: flows.append(trace_pixels(model)) or ())
    flow = flows[0] if flows else Flow({})
    findings = [
        *_results(lambda: _scaled_twice(model, flow)),
        *_results(lambda: _batch_norms(flow)),
        *_results(lambda: _stale_normalizations(model)),
        *_results(lambda: check_outputs(model)),
    ]
    scaled = bool(findings)
    findings += _results(lambda: check_losses(model, labels))
    findings += _results(lambda: check_labels(model, labels, class_names))
    if batch is not None:
        findings += _results(lambda: check_batches(model, flow, batch, scaled))
    return findings


def _results(check: Callable) -> list[Finding]:
    """The findings of a check; none if it fails.

    Models and data may be of any class, whose own code runs when they are read.
    """
    try:
        return list(check())
    except Exception:
        _LOG.debug("a check failed", exc_info=True)
        return []


def _scaled_twice(model, flow):
    for pixels in flow.entries:
        unknown = pixels.scale is None or len(pixels.scalings) < 2
        if not unknown and 255 * pixels.scale < NARROWEST:
            yield Finding(
                "normalized-twice",
                f"{model.name} has {len(pixels.scalings)} layers that scale pixels in sequence: "
                f"{', '.join(pixels.scalings)}. keras_effnet's models normalize pixels "
                "themselves: remove yours, or build with include_preprocessing=False",
            )
            return


def _batch_norms(flow):
    names = list(dict.fromkeys(flow.batch_norms))
    if names:
        yield Finding(
            "batch-norm-trains-while-frozen",
            f"{len(flow.frozen_convolutions)} convolutions are frozen, but {len(names)} batch "
            f"norms behind them train ({names[0]}, ...): their statistics drift "
            "from those that the frozen weights expect. Use keras_effnet.freeze(model, ...), or "
            "set their trainable to False too",
        )


def _stale_normalizations(model):
    """``Normalization`` layers that compute with other constants than their weights state."""
    for layer, _ in flat_layers(model):
        stored, used = getattr(layer, "adapt_mean", None), getattr(layer, "mean", None)
        if type(layer).__name__ != "Normalization" or stored is None or used is None:
            continue
        if not np.allclose(np.ravel(np.asarray(used)), np.ravel(np.asarray(stored)), rtol=1e-3):
            yield Finding(
                "stale-normalization",
                f"{layer.name} computes with the mean {np.ravel(np.asarray(used))[0]:.4g}, but its "
                f"weights state {np.ravel(np.asarray(stored))[0]:.4g}: set_weights and .h5 files "
                "leave the constants as they were. Call its finalize_state()",
            )
