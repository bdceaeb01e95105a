"""Runs the original networks of PyTorch projects and keras.applications for comparison.

Every ``*_outputs`` function returns {place: float32 array} for the places "stem", each block, "top"
and, with a classifier, "logits": (batch, height, width, channels), logits (batch, classes).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.porting.keras_applications import APPLICATIONS_FUNCTIONS
from keras_effnet.pretrained.layer_names import LayerNames, block_positions
from keras_effnet.pretrained.package_files import LUKEMELAS
from keras_effnet.pretrained.pytorch_projects import TIMM, TORCHVISION
from keras_effnet.pretrained.state_dicts import read_state
from keras_effnet.variants import V1, VARIANTS
from keras_effnet.weight_transfer import set_weights


class NotRunnableError(Exception):
    """The original network cannot be run; the message gives the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A file of another project, and what was read from it."""

    path: str | os.PathLike[str]
    name: str  # of the network in that project
    plan: Plan
    weights: Mapping[str, Sequence[np.ndarray]]  # {our layer's name: arrays}


def random_images(image_size: int, count: int = 2) -> np.ndarray:
    """(count, image_size, image_size, 3), float32 in [0, 255]; the same at every call.

    Coarse squares with fine noise, each image of another brightness.
    """
    rng = np.random.default_rng(7)
    side = -(-image_size // 8)
    coarse = rng.uniform(0, 255, (count, side, side, 3)).repeat(8, 1).repeat(8, 2)
    coarse = coarse[:, :image_size, :image_size]
    bright = np.linspace(0.3, 1, count).reshape(-1, 1, 1, 1)
    return (bright * (coarse + rng.uniform(0, 255, coarse.shape)) / 2).astype("float32")


def keras_outputs(model, plan: Plan, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a Keras model with our layer names, for (batch, height, width, 3) images."""
    import keras

    layers = {layer.name for layer in model.layers}
    names = {"stem": "stem_activation"}
    for block in plan.blocks:
        ends = (f"{block.name}_{end}" for end in ("add", "project_activation", "project_bn"))
        names[block.name] = next(name for name in ends if name in layers)
    names["top"] = "top_activation"
    tensors = {place: model.get_layer(name).output for place, name in names.items()}
    if "predictions" in layers:
        tensors["pooled"] = model.get_layer("avg_pool").output
    channels_first = keras.backend.image_data_format() == "channels_first"
    images = images.transpose(0, 3, 1, 2) if channels_first else images
    values = keras.Model(model.inputs[0], list(tensors.values()))(images, training=False)
    outputs = {place: _to_numpy(value) for place, value in zip(tensors, values)}
    if channels_first:
        outputs = {p: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for p, v in outputs.items()}
    if "pooled" in outputs:  # the classifier without its activation
        kernel, bias = model.get_layer("predictions").get_weights()
        outputs["logits"] = outputs.pop("pooled").astype("float32") @ kernel + bias
    return outputs


def timm_outputs(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of timm's network with the weights of the file."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision and torch mismatch
        raise NotRunnableError(f"timm cannot be imported ({error})") from error

    def build(classes):
        return timm.create_model(checkpoint.name, pretrained=False, num_classes=classes)

    return _torch_outputs(checkpoint, build, TIMM, images)


def torchvision_outputs(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of torchvision's network with the weights of the file."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise NotRunnableError(f"torchvision cannot be imported ({error})") from error

    def build(classes):
        return torchvision.models.get_model(checkpoint.name, weights=None, num_classes=classes)

    return _torch_outputs(checkpoint, build, TORCHVISION, images)


def lukemelas_outputs(
    checkpoint: Checkpoint, images: np.ndarray, package: str
) -> dict[str, np.ndarray]:
    """The outputs of a network of efficientnet_pytorch or efficientnet_lite_pytorch."""
    try:
        networks = importlib.import_module(package)
    except ImportError as error:
        raise NotRunnableError(f"{package} cannot be imported ({error})") from error

    def build(classes):  # its padding is computed for one image size
        return networks.EfficientNet.from_name(
            checkpoint.name, num_classes=classes, image_size=images.shape[1]
        )

    return _torch_outputs(checkpoint, build, LUKEMELAS, images)


def _torch_outputs(checkpoint, build, names: LayerNames, images):
    import torch

    plan = checkpoint.plan
    state = {name: torch.from_numpy(array) for name, array in read_state(checkpoint.path).items()}
    head = names.ends["predictions"]
    classes = state[f"{head}.weight"].shape[0] if f"{head}.weight" in state else None
    network = build(classes or 1000)
    if classes is None:
        setattr(network, head.split(".")[0], torch.nn.Identity())
    network.load_state_dict(state)
    network.eval()

    positions = [position for _, position in block_positions(plan)]
    modules = {"stem": names.outputs["stem"]}
    modules |= {p["name"]: names.block.format(**p).rstrip(".") for p in positions}
    modules["top"] = names.outputs["top"].format(last=positions[-1]["stage1"] + 1)
    outputs = {}

    def keep(place):
        def hook(module, inputs, output):
            if place == "stem" and place in outputs:
                return  # the activation of stem and top is one module in lukemelas' networks
            # a copy: some modules later write in place
            outputs[place] = output.permute(0, 2, 3, 1).numpy().copy()

        return hook

    for place, module in modules.items():
        network.get_submodule(module).register_forward_hook(keep(place))
    mean, std = plan.normalization.mean, plan.normalization.std
    pixels = (images - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    if classes is not None:
        outputs["logits"] = logits.numpy()
    return outputs


def applications_outputs(checkpoint: Checkpoint, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of keras.applications' network with the weights that were read."""
    import keras

    plan, weights = checkpoint.plan, checkpoint.weights
    v1 = VARIANTS[plan.name].family is V1
    head = weights.get("predictions")
    options = {} if v1 else {"include_preprocessing": False}
    network = getattr(keras.applications, APPLICATIONS_FUNCTIONS[plan.name])(
        weights=None,
        include_top=head is not None,
        classes=1000 if head is None else len(head[1]),
        classifier_activation=None,
        input_shape=images.shape[1:],
        **options,
    )
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(arrays)
    mean, std = (np.array(x) for x in (plan.normalization.mean, plan.normalization.std))
    if not v1:
        return keras_outputs(network, plan, (images - np.float32(mean)) / np.float32(std))
    for layer in network.layers:  # its Normalization takes pixels in [0, 1]
        if type(layer).__name__ == "Normalization":
            set_weights(layer, [mean / 255, (std / 255) ** 2, np.zeros((), "int32")])
    return keras_outputs(network, plan, images)


def _to_numpy(tensor):
    import keras

    convert = getattr(getattr(keras, "ops", None), "convert_to_numpy", np.asarray)
    return convert(tensor)
