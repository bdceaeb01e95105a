"""Saliency maps (Grad-CAM, occlusion) of a classifier, and pictures of its feature maps.

:func:`grad_cam` uses gradients, :func:`occlusion` covers the image patch by patch; maps on which
both agree are more reliable. Both explain the logit of one class, not its probability: through a
softmax, evidence against other classes would appear as evidence for it.
"""

from __future__ import annotations

import math
import numbers

import numpy as np

from keras_effnet.feature_pyramid import feature_table
from keras_effnet.gradients import gradient
from keras_effnet.model_graph import all_outputs, execute, graph_of, last_call, require_model
from keras_effnet.model_structure import find_backbone
from keras_effnet.suggestions import unknown_name
from keras_effnet.weight_transfer import copy_weights

# The color map "inferno", at 6 points from 0 to 1.
_COLORS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]]
)


def grad_cam(model, image, class_index=None, layer: str | None = None) -> np.ndarray:
    """Heat maps (height, width) in [0, 1], float32: where the evidence for a class is (Grad-CAM).

    `image` is RGB in [0, 255], (height, width, 3), or a batch of images, which gives a batch of
    maps. `class_index` is one class for all images, one for each, or None for the class with the
    highest score. `layer` names the feature map that is weighted by the gradient; None selects the
    last one of at least 4 x 4 pixels. A late layer has more context but is coarse (stride 32), an
    early one is fine but noisy. Positions are accurate to about a quarter of the stride, since
    strided convolutions are shifted to the lower right. The maximum is 1; a map without evidence
    for the class is 0 everywhere. The layer may lie in a nested model, at any depth. Costs one
    forward pass, and the part behind the layer forward and backward.

    Selvaraju et al., arXiv 1610.02391. Requires a backend with gradients. Raises ``ValueError`` for
    an image that does not fit, or an unknown class or layer.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0", input_shape=(64, 64, 3))
    >>> grad_cam(model, np.zeros((64, 64, 3), np.uint8)).shape
    (64, 64)
    """
    images, single = _batch(model, image)
    network = _Classifier(model)
    values = network.run(images)
    target = _feature_map_of(model, layer, values)
    maps = _numpy(values[id(target)]).astype("float32")
    scores = _numpy(network.logits(values)).astype("float32")
    chosen = _classes(scores, class_index)
    direction = np.eye(scores.shape[-1], dtype="float32")[chosen]

    def logits_of(feature_map, training):
        changed = execute(network.graph, values, {id(target): feature_map})
        return network.logits(changed)

    gradients = gradient(logits_of, maps, direction)
    if _channels_first(model):
        maps, gradients = (a.transpose(0, 2, 3, 1) for a in (maps, gradients))
        images = images.transpose(0, 2, 3, 1)
    heat = np.maximum((maps * gradients.mean((1, 2), keepdims=True)).sum(-1), 0)
    heat = np.stack([_enlarged(h, *images.shape[1:3]) for h in heat])
    return heat[0] if single else heat


def occlusion(
    model, image, class_index=None, *, patch: int | None = None, stride: int | None = None
) -> np.ndarray:
    """Heat maps (height, width) in [0, 1], float32: how much a logit drops when a pixel is covered.

    Arguments and range as in :func:`grad_cam`. It uses neither gradients nor a layer, so it works
    with any classifier and can validate other methods. A square of `patch` pixels (default: a
    quarter of the shorter side) in the image's mean color moves by `stride` (default: a quarter of
    the patch). A pixel's value is the mean over the patches that cover it. Costs one forward pass
    for each position: 169 with the defaults, at any image size.

    Zeiler and Fergus (arXiv 1311.2901), section 4.2. Raises ``ValueError`` as :func:`grad_cam`.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0", input_shape=(32, 32, 3))
    >>> occlusion(model, np.zeros((32, 32, 3), np.uint8), patch=16, stride=16).shape
    (32, 32)
    """
    images, single = _batch(model, image)
    network = _Classifier(model)

    def logits(pixels):
        return network.logits(network.run(pixels))

    to_last = (0, 2, 3, 1) if _channels_first(model) else (0, 1, 2, 3)
    from_last = np.argsort(to_last)
    pixels = images.transpose(to_last)
    height, width = pixels.shape[1:3]
    patch = patch or max(1, min(height, width) // 4)
    stride = stride or max(1, patch // 4)
    if not 1 <= patch <= min(height, width) or not 1 <= stride <= patch:
        raise ValueError(
            f"patch {patch} and stride {stride} cannot cover {height} x {width} pixels: give a "
            "patch within the image and a stride of at most the patch"
        )
    corners = [
        (y, x) for y in _starts(height, patch, stride) for x in _starts(width, patch, stride)
    ]
    scores = _numpy(logits(images))
    chosen = _classes(scores, class_index)
    heats = []
    for picture, score, c in zip(pixels, scores, chosen):
        total, covers = np.zeros((2, height, width), "float32")
        for i in range(0, len(corners), 32):
            batch = corners[i : i + 32]
            covered = np.repeat(picture[None], 32, 0)  # always 32: compiles one shape
            for copy, (y, x) in zip(covered, batch):
                copy[y : y + patch, x : x + patch] = picture.mean((0, 1))
            lower = _numpy(logits(covered.transpose(from_last)))[:, c]
            for (y, x), value in zip(batch, lower):
                total[y : y + patch, x : x + patch] += score[c] - value
                covers[y : y + patch, x : x + patch] += 1
        heats.append(_scaled(np.maximum(total / covers, 0)))
    return heats[0] if single else np.stack(heats)


def overlay(image, heat, strength: float = 0.6) -> np.ndarray:
    """uint8 (height, width, 3): an image in grey with a heat map in color on top.

    `image` is RGB in [0, 255], `heat` (height, width) in [0, 1]; `strength` is the opacity of the
    color where the heat is 1.

    >>> overlay(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8))).shape
    (8, 8, 3)
    """
    image, heat = np.asarray(image), np.asarray(heat, "float32")
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or heat.shape != image.shape[:2]:
        raise ValueError(
            f"heat {heat.shape} does not fit an image {image.shape}: give (height, width) and "
            "(height, width, 3) of the same size"
        )
    grey = image.astype("float32").mean(-1, keepdims=True)
    opacity = strength * (0.35 + 0.65 * heat[..., None])
    return np.rint(np.clip((1 - opacity) * grey + opacity * _colored(heat), 0, 255)).astype(
        np.uint8
    )


def feature_maps(model, image, layer: str, *, count: int = 64) -> np.ndarray:
    """uint8 (rows, columns, 3): a grid of the channels of a layer's feature map for one image.

    `image` is RGB in [0, 255], (height, width, 3); `layer` is a name (``feature_table(model)`` has
    the last layers of the stages). Shows the `count` channels with the largest standard deviation
    within the image, in that order, each scaled from its minimum (dark) to its maximum (bright).

    Raises ``ValueError`` for an image that does not fit, or a layer without a feature map.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0", input_shape=(64, 64, 3))
    >>> feature_maps(model, np.zeros((64, 64, 3), np.uint8), "block2b_add", count=4).shape
    (67, 67, 3)
    """
    images, single = _batch(model, image)
    if not single:
        raise ValueError(f"image has shape {images.shape}: give one image (height, width, 3)")
    values = _run(graph_of(model), images)
    maps = _numpy(values[id(_feature_map_of(model, layer, values))])[0].astype("float32")
    maps = maps if _channels_first(model) else maps.transpose(2, 0, 1)
    order = np.argsort(-maps.std((1, 2)), kind="stable")[: max(1, count)]
    low, high = (f(maps[order], (1, 2), keepdims=True) for f in (np.min, np.max))
    maps = (maps[order] - low) / np.maximum(high - low, 1e-12)

    zoom = max(1, math.ceil(32 / min(maps.shape[1:])))
    maps = maps.repeat(zoom, 1).repeat(zoom, 2)
    columns = math.ceil(len(maps) ** 0.5)
    high, wide = maps.shape[1] + 1, maps.shape[2] + 1  # a white line between maps
    grid = np.full((-(-len(maps) // columns) * high + 1, columns * wide + 1, 3), 255, np.uint8)
    for i, channel in enumerate(maps):
        y, x = i // columns * high + 1, i % columns * wide + 1
        grid[y : y + high - 1, x : x + wide - 1] = np.rint(_colored(channel))
    return grid


def _batch(model, image):
    """(float32 images (batch, ...), whether a single image was given)."""
    require_model(model)
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            f"{model.name} is neither functional nor sequential, so the order of its layers is "
            "unknown: build it as keras.Model(inputs, outputs)"
        )
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"{model.name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs: only "
            "models of one image and one output are supported; fix the other inputs in a "
            "keras.Model of one input"
        )
    images = np.asarray(image)
    single = images.ndim == 3
    images = images[None] if single else images
    shape = tuple(graph.inputs[0].shape)
    fits = images.ndim == len(shape) == 4 and all(
        n is None or n == given for n, given in zip(shape[1:], images.shape[1:])
    )
    if not fits:
        raise ValueError(
            f"image has shape {np.shape(image)}, but {model.name} takes "
            f"{shape}: resize it (keras_effnet.preprocess), or the model "
            "(keras_effnet.change_image_size)"
        )
    return images.astype("float32"), single


def _channels_first(model):
    shape = graph_of(model).inputs[0].shape
    return shape[-1] not in (1, 3) and shape[1] in (1, 3)


def _run(graph, images):
    """{id(tensor): value} of all tensors of a graph."""
    import keras

    tensor = keras.ops.convert_to_tensor(images) if hasattr(keras, "ops") else images
    return execute(graph, {id(graph.inputs[0]): tensor})


def _feature_map_of(model, name, values):
    """The output tensor of a layer (None: the default), at any depth; `values` are of a run."""
    tensors = {layer.name: tensor for layer, tensor in all_outputs(graph_of(model))}
    if name is None:
        name = _default_layer(model, {n: values.get(id(t)) for n, t in tensors.items()})
    if name not in tensors:
        raise ValueError(unknown_name("layer", name, tensors))
    if len(tensors[name].shape) != 4:
        raise ValueError(
            f"layer {name!r} outputs {tuple(tensors[name].shape)}, not (batch, height, width, "
            "channels)"
        )
    return tensors[name]


def _default_layer(model, values):
    """The last feature map of at least 4 x 4 pixels in the EfficientNet of a model."""
    size = slice(2, 4) if _channels_first(model) else slice(1, 3)
    levels = [row.layer for row in feature_table(model).levels]
    top = f"{find_backbone(model).prefix}top_activation"
    names = [*levels, top] if top in values else levels
    large = [n for n in names if min(values[n].shape[size]) >= 4]
    return (large or names)[-1]


class _Classifier:
    """A model's output without a final softmax or sigmoid, in nested models too."""

    def __init__(self, model):
        from keras import layers

        self.graph = graph_of(model)
        shape = tuple(self.graph.outputs[0].shape)
        if len(shape) != 2:
            raise ValueError(
                f"{model.name} is not a classifier: its output is {shape}, not (batch, classes)"
            )
        last, inputs, output = last_call(self.graph)
        activation = getattr(getattr(last, "activation", None), "__name__", None)
        is_probability = activation in ("softmax", "sigmoid")
        self.tensor, self.linear = output, None
        if isinstance(last, layers.Softmax) or (
            isinstance(last, layers.Activation) and is_probability
        ):
            self.tensor = inputs[0]
        elif isinstance(last, layers.Dense) and is_probability:
            self.tensor = inputs[0]
            config = {**last.get_config(), "activation": None, "name": f"{last.name}_logits"}
            self.linear = layers.Dense.from_config(config)
            self.linear.build(tuple(inputs[0].shape))
            copy_weights(last, self.linear)

    def run(self, images):
        """{id(tensor): value} of all tensors of the model."""
        return _run(self.graph, images)

    def logits(self, values):
        """The logits, given the values of a run."""
        if id(self.tensor) not in values:
            raise ValueError("the output does not depend on that layer: give another one")
        value = values[id(self.tensor)]
        return value if self.linear is None else self.linear(value)


def _classes(scores, class_index):
    """The class index for each image."""
    if class_index is None:
        return scores.argmax(-1)
    one = isinstance(class_index, numbers.Integral)
    chosen = np.asarray([class_index] * len(scores) if one else class_index)
    if chosen.shape != scores.shape[:1] or chosen.min() < 0 or chosen.max() >= scores.shape[-1]:
        raise ValueError(
            f"class_index {class_index!r} does not fit {len(scores)} images and {scores.shape[-1]} "
            f"classes: give a number from 0 to {scores.shape[-1] - 1}, one for each image, or None"
        )
    return chosen


def _starts(side, patch, stride):
    starts = list(range(0, side - patch + 1, stride))
    return starts if starts[-1] == side - patch else [*starts, side - patch]


def _enlarged(heat, height, width):
    """Bilinear interpolation with half-pixel centers."""
    for axis, size in ((0, height), (1, width)):
        source = np.arange(heat.shape[axis])
        at = (np.arange(size) + 0.5) * (len(source) / size) - 0.5
        heat = np.apply_along_axis(lambda line: np.interp(at, source, line), axis, heat)  # noqa: B023
    return _scaled(heat)


def _scaled(heat):
    return (heat / heat.max() if heat.max() > 0 else heat).astype("float32")


def _colored(heat):
    at = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(heat, at, channel) for channel in _COLORS.T], -1)


def _numpy(tensor):
    import keras

    ops = getattr(keras, "ops", None)  # Keras 2 has none
    return ops.convert_to_numpy(tensor) if ops else np.asarray(tensor)
