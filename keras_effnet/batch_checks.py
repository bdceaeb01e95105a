"""Checks of a batch against the model that it is for."""

from __future__ import annotations

import numpy as np

from keras_effnet.finding import Finding, to_array
from keras_effnet.model_graph import flat_layers, graph_of
from keras_effnet.pixel_flow import BATCH_NORMS, NARROWEST, WIDEST, kind_of


def check_batches(model, flow, batch, found):
    """Findings about the batch of every input.

    `flow` is that of the model's pixels, `found` whether its layers are known to be wrong.
    """
    graph = graph_of(model)
    tensors = list(graph.inputs) if graph is not None else [None]
    names = [str(getattr(tensor, "name", "")).split(":")[0] for tensor in tensors]
    if isinstance(batch, dict):
        missing = [name for name in names if name not in batch]
        if missing and (len(batch) != 1 or len(tensors) != 1):
            yield Finding(
                "shape", f"the batch lacks the input {missing[0]!r} of {model.name}: give {names}"
            )
            return
        batch = list(batch.values()) if missing else [batch[name] for name in names]
    several = len(tensors) > 1
    if several and not (isinstance(batch, (list, tuple)) and len(batch) == len(tensors)):
        yield Finding(
            "shape",
            f"{model.name} has {len(tensors)} inputs ({', '.join(names)}): give a list of "
            f"{len(tensors)} arrays, or a dict by these names",
        )
        return
    if not several:
        only = isinstance(batch, (list, tuple)) and len(batch) == 1 and np.ndim(batch[0]) != 3
        batch = batch if only else [batch]
    for i, (tensor, given) in enumerate(zip(tensors, batch)):
        shape = (None,) * 4 if tensor is None else tuple(tensor.shape)
        entries = [pixels for pixels in flow.entries if i in pixels.sources]
        yield from _batch(model, shape, entries, to_array(given), found)


def _batch(model, expected, entries, batch, found):
    if batch is None:
        yield Finding("shape", f"the batch of one input of {model.name} is None: give an array")
        return
    if batch.dtype.kind not in "iuf" and len(expected) == 4:
        yield Finding(
            "range",
            f"the batch is {batch.dtype}, not an array of numbers: give numbers in [0, 255]",
        )
        return
    if batch.ndim + 1 == len(expected) and expected[-1] == 1:  # as Keras does
        batch = batch[..., None]
    elif batch.ndim == len(expected) + 1 and batch.shape[-1] == 1:
        batch = batch[..., 0]
    if batch.ndim == 0 and batch.dtype.kind == "O":
        yield Finding(
            "shape", "the batch is not an array: give one batch of arrays, not a data set"
        )
        return
    if batch.ndim != len(expected):
        how = "(batch, height, width, channels)" if len(expected) == 4 else str(expected)
        hint = "; one image is a batch of 1: image[None]" if batch.ndim == 3 else ""
        yield Finding("shape", f"the batch has shape {batch.shape}: give {how}{hint}")
        return
    if batch.size == 0:
        yield Finding("shape", f"the batch has shape {batch.shape}: it is empty")
        return
    if any(e is not None and e != given for e, given in zip(expected[1:], batch.shape[1:])):
        yield Finding(
            "shape",
            f"the batch is {batch.shape[1:]}, but {model.name} takes {expected[1:]}: prepare "
            "images with keras_effnet.preprocess, or change the model with "
            "keras_effnet.change_image_size",
        )
    if batch.ndim != 4 or not entries:
        return
    yield from _size(model, expected, entries, batch)
    if not np.all(np.isfinite(batch)):
        yield Finding("range", "the batch has values that are not finite")
    elif not found:
        yield from _range(model, entries, float(batch.min()), float(batch.max()))


def _size(model, expected, entries, batch):
    sizes = {pixels.size for pixels in entries if not pixels.resized} - {None}
    channels_first = expected[1] in (1, 3) and expected[3] not in (1, 3)
    height, width = batch.shape[2:] if channels_first else batch.shape[1:3]
    fixed = expected[2:] if channels_first else expected[1:3]
    if not sizes or {height, width} in [{size} for size in sizes]:
        return
    if fixed == (height, width) and height != width:
        return  # no evaluation is stored for images that are not square
    if _is_untrained(model):
        return  # the stated size is that of the variant, not of these weights
    size = min(sizes)
    yield Finding(
        "evaluation-size",
        f"the batch is {height} x {width} pixels, but {model.name} states "
        f"{size} x {size} as the size of its evaluation. Prepare images with "
        "keras_effnet.preprocess, and change a model of another size with "
        f"keras_effnet.change_image_size(model, {size})",
    )


def _is_untrained(model):
    """Whether all batch norms have their initial moving statistics: the weights are random."""
    layers = [layer for layer, _ in flat_layers(model) if kind_of(layer) in BATCH_NORMS]
    statistics = [layer.get_weights()[-2:] for layer in layers]
    return bool(statistics) and all(
        len(values) == 2 and not values[0].any() and (values[1] == 1).all() for values in statistics
    )


def _range(model, entries, low, high):
    values = f"the batch's values run from {low:.3g} to {high:.3g}"
    if low == high:  # e.g. zeros, to try a model
        return
    for pixels in entries:
        if pixels.scale is None:
            continue
        narrow = min(2.0, high - low) * pixels.scale < NARROWEST
        if low < -20 and high > 20 and pixels.size is not None and narrow:
            yield Finding(
                "scaled-twice",
                f"{values}, as if a mean were subtracted already (preprocess_input of ResNet50 and "
                f"VGG does that, and swaps red and blue), but {model.name} normalizes pixels "
                "itself: give RGB in [0, 255]",
            )
        elif low < 0 and narrow:
            yield Finding(
                "scaled-twice",
                f"{values}, as if normalized already, but {model.name} normalizes pixels itself: "
                "give RGB in [0, 255], or build with include_preprocessing=False",
            )
        elif low >= 0 and high <= 1 and pixels.scale < NARROWEST:
            yield Finding(
                "scaled-twice",
                f"{values}, as if divided by 255 already, but {model.name} normalizes pixels "
                "itself: give RGB in [0, 255]",
            )
        elif high > 255 and not 65535 * pixels.scale <= WIDEST:
            yield Finding(
                "range", f"{values}: give RGB in [0, 255]; divide images of 16 bits by 257"
            )
        elif low < 0:
            continue  # a mean was subtracted, as some networks expect
        elif 20 < high <= 255 and 255 * pixels.scale > WIDEST and pixels.scalings:
            yield Finding(
                "range",
                f"{values}, as raw pixels do, but {model.name} scales pixels by "
                f"{pixels.scale:.3g}: it seems to expect [0, 1]; divide the images by 255",
            )
        elif 20 < high <= 255 and 255 * pixels.scale > WIDEST:
            yield Finding(
                "not-normalized",
                f"{values}, as raw pixels do, but {model.name} does not normalize them: build "
                "with include_preprocessing=True, or subtract the mean and divide by the standard "
                "deviation that its weights expect",
            )
        else:
            continue
        return
