"""Files in other projects' formats with random weights, to test conversions without the releases.

The weights are random but well scaled: every batch norm first measures images and is then
perturbed, so that activations are of order one at every depth and depend on every weight.
"""

import importlib
import importlib.util
import pathlib
import re

import numpy as np

from keras_effnet.network_plan import plan
from keras_effnet.porting import PROJECTS
from keras_effnet.porting.reference_models import random_images
from keras_effnet.pretrained.layer_names import weighted_layers
from keras_effnet.variants import VARIANTS
from keras_effnet.weight_transfer import set_weights


def import_torch_projects():
    """(torch, torchvision, timm), also where torchvision was built for another torch than the one
    installed: its operators, which no EfficientNet calls, are then declared without an
    implementation. Raises ``ImportError`` if one is not installed.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise ImportError("torchvision is not installed")
    folder = pathlib.Path(spec.submodule_search_locations[0])
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        # Their shapes are registered on import, and that takes operators of the same names.
        source = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
        names = set(re.findall(r'\("(?:torchvision::)?([a-z]\w*)"\)', source))
        for name in sorted(name for name in names if not hasattr(torch.ops.torchvision, name)):
            _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
            _DECLARED[-1].define(f"{name}(Tensor ignored) -> Tensor")
    import timm
    import torchvision

    return torch, torchvision, timm


_IMAGENET = VARIANTS["efficientnet-b0"].normalization
_DECLARED = []  # a declaration lasts as long as its library object


_CALM = 0.2  # of a residual branch's last scale: the sum of 25 in a row stays of order one


LUKEMELAS_PACKAGES = {
    "lukemelas": "efficientnet_pytorch",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
}


def lukemelas_network(project, name, *, classes, image_size=None):
    """A network of a project of LUKEMELAS_PACKAGES."""
    package = importlib.import_module(LUKEMELAS_PACKAGES[project])
    size = {} if image_size is None else {"image_size": image_size}
    return package.EfficientNet.from_name(name, num_classes=classes, **size)


def torch_network(project, name, *, classes=1000, seed=0):
    """A network of a PyTorch project, randomly initialised and disturbed, in eval mode."""
    torch, torchvision, timm = import_torch_projects()
    torch.manual_seed(seed)
    if project == "timm":
        network = timm.create_model(name, pretrained=False, num_classes=classes)
    elif project in LUKEMELAS_PACKAGES:
        network = lukemelas_network(project, name, classes=classes, image_size=64)
    else:
        network = torchvision.models.get_model(name, weights=None, num_classes=classes)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        images = (random_images(64, count=4) - 128) / 64
        network.train()(torch.from_numpy(images).permute(0, 3, 1, 2))
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            power = norm.running_var + 0.02 * norm.running_mean**2 + 1e-3
            norm.weight.uniform_(0.8, 1.25)
            norm.bias.uniform_(-0.05, 0.05)
            norm.running_mean += torch.empty_like(power).uniform_(-0.05, 0.05) * power.sqrt()
            norm.running_var.copy_(power * torch.empty_like(power).uniform_(0.5, 1.5))
        row = PROJECTS[project]
        resolved = plan(row.variants[name])
        layers = {layer.name: layer.source_name for layer in weighted_layers(resolved, row.write)}
        for block in resolved.blocks:
            if block.residual:
                network.get_submodule(layers[f"{block.name}_project_bn"]).weight *= _CALM
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.bias is not None:
                module.bias.uniform_(-0.1, 0.1)
    return network.eval()


def save_torch(network, path, *, nest=None):
    """Saves a state dict: ``.safetensors``, or ``.pth``, there under the key `nest` if given,
    as training code does.
    """
    import torch
    from safetensors.torch import save_file

    path = str(path)
    if path.endswith(".safetensors"):
        save_file(network.state_dict(), path, metadata={"format": "pt"})
    else:
        state = network.state_dict()
        torch.save({nest: state, "epoch": 3} if nest else state, path)


def tame(model, seed=0):
    """Gives a Keras model of ours or keras.applications' random, tame weights."""
    rng = np.random.default_rng(seed)
    additions = {layer.name for layer in model.layers if layer.name.endswith("_add")}
    norms = []
    for layer in model.layers:
        kind, shapes = type(layer).__name__, [tuple(w.shape) for w in layer.weights]
        if kind == "BatchNormalization":
            norms.append((layer, layer.momentum))
            layer.momentum = 0.0
        elif shapes and kind == "Normalization":  # keras.applications' V1: pixels are in [0, 1]
            mean, std = (np.array(x) / 255 for x in (_IMAGENET.mean, _IMAGENET.std))
            set_weights(layer, [mean, std**2, np.zeros((), "int32")])
        elif shapes:
            area = np.prod(shapes[0][:-2], dtype=int)
            fan_in = area * (1 if kind == "DepthwiseConv2D" else shapes[0][-2])
            kernel = rng.standard_normal(shapes[0], "float32") * np.float32((2 / fan_in) ** 0.5)
            biases = [rng.uniform(-0.1, 0.1, s).astype("float32") for s in shapes[1:]]
            layer.set_weights([kernel, *biases])
    model(random_images(model.input_shape[1] or 64, count=4), training=True)
    for layer, momentum in norms:
        layer.momentum = momentum
        mean, variance = layer.get_weights()[2:]
        power = variance + 0.02 * mean**2 + 1e-3
        gamma, beta, shift, width = (
            rng.uniform(low, high, mean.shape).astype("float32")
            for low, high in ((0.8, 1.25), (-0.05, 0.05), (-0.05, 0.05), (0.5, 1.5))
        )
        if layer.name.replace("_project_bn", "_add") in additions:
            gamma *= _CALM
        layer.set_weights([gamma, beta, mean + shift * power**0.5, power * width])


def save_h5(path, stored, *, whole_model=False):
    """Saves {layer name: arrays} as Keras 2's ``.h5``: weights alone, or as in a whole model's."""
    import h5py

    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["layer_names"] = [b"input_1", *(name.encode() for name in stored)]
        root.create_group("input_1").attrs["weight_names"] = []
        for name, arrays in stored.items():
            group = root.create_group(name)
            names = [f"{name}/variable_{i}:0" for i in range(len(arrays))]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for weight, array in zip(names, arrays):
                group.create_dataset(weight, data=array)


def save_checkpoint(prefix, scope, shapes, *, seed=0, slots=True, averages=True):
    """Saves a checkpoint as the official code's does: every variable {name without scope: shape},
    its average, its RMSProp slots, and the step. Returns {name: the values that count}.
    """
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    values, counted = {"global_step": np.int64(218949)}, {}
    for name, shape in shapes.items():
        draws = 1 + averages + 2 * slots
        plain, *others = (rng.standard_normal(shape, "float32") for _ in range(draws))
        values[f"{scope}/{name}"] = counted[name] = plain
        if averages:
            values[f"{scope}/{name}/ExponentialMovingAverage"] = counted[name] = others.pop()
        if slots:
            values[f"{scope}/{name}/RMSProp"], values[f"{scope}/{name}/RMSProp_1"] = others
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    folder = pathlib.Path(prefix).parent  # where the training ran, which is not here
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-218949"\n')
    return counted


def read_golden(path):
    """{network: {variable's name without scope: shape}} of tests/golden's list of variables."""
    networks = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            variables = networks.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, shape = line.split()
            shape = tuple(int(n) for n in shape.split("x"))
            parts = ("gamma", "beta", "moving_mean", "moving_variance")
            for full in [name[:-1] + p for p in parts] if name.endswith("/*") else [name]:
                variables[full] = shape
    return networks
