"""The source's own network on some images: what our answers are held against.

Every function here returns {place: (batch, height, width, channels) or (batch, classes), float32}
for the places "stem", each block, "top" and, with a classifier, "logits".
"""

import numpy as np

from keras_effnet.porting.pytorch import TIMM, TORCHVISION
from keras_effnet.porting.state_dicts import read_state
from keras_effnet.pretrained.layer_names import places
from keras_effnet.variants import V1


class NotRunnableError(Exception):
    """The source's network cannot be run here; the message says why."""


def random_images(image_size, count=2):
    """(count, image_size, image_size, 3), float32 in [0, 255]: blots and noise, always the same."""
    rng = np.random.default_rng(7)
    side = -(-image_size // 8)
    coarse = rng.uniform(0, 255, (count, side, side, 3)).repeat(8, 1).repeat(8, 2)
    coarse = coarse[:, :image_size, :image_size]
    bright = np.linspace(0.3, 1, count).reshape(-1, 1, 1, 1)
    return (bright * (coarse + rng.uniform(0, 255, coarse.shape)) / 2).astype("float32")


def of_keras(model, plan, images):
    """What a Keras model with our layers' names makes of (batch, height, width, 3) images."""
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
    outputs = keras.Model(model.inputs[0], list(tensors.values()))(images, training=False)
    found = {place: _numbers(value) for place, value in zip(tensors, outputs)}
    if channels_first:
        found = {p: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for p, v in found.items()}
    if "pooled" in found:  # the classifier without its activation
        kernel, bias = model.get_layer("predictions").get_weights()
        found["logits"] = found.pop("pooled").astype("float32") @ kernel + bias
    return found


def of_timm(path, name, plan, images):
    """The network of that name in timm, with the weights of the file."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise NotRunnableError(f"timm cannot be imported ({error})") from error

    def build(classes):
        return timm.create_model(name, pretrained=False, num_classes=classes)

    return _of_torch(path, build, TIMM, plan, images)


def of_torchvision(path, name, plan, images):
    """The network of that name in torchvision, with the weights of the file."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        raise NotRunnableError(f"torchvision cannot be imported ({error})") from error

    def build(classes):
        return torchvision.models.get_model(name, weights=None, num_classes=classes)

    return _of_torch(path, build, TORCHVISION, plan, images)


def _of_torch(path, build, names, plan, images):
    import torch

    state = {name: torch.from_numpy(array) for name, array in read_state(path).items()}
    head = names.ends["predictions"]
    classes = state[f"{head}.weight"].shape[0] if f"{head}.weight" in state else None
    network = build(classes or 1000)
    if classes is None:
        setattr(network, head.split(".")[0], torch.nn.Identity())
    network.load_state_dict(state)
    network.eval()

    stages = [place for _, place in places(plan)]
    modules = {"stem": names.outputs["stem"]}
    modules |= {p["name"]: names.block.format(**p).rstrip(".") for p in stages}
    modules["top"] = names.outputs["top"].format(last=stages[-1]["stage1"] + 1)
    found = {}

    def keep(place):
        def hook(module, inputs, output):
            found[place] = output.permute(0, 2, 3, 1).numpy().copy()  # some write in place later

        return hook

    for place, module in modules.items():
        network.get_submodule(module).register_forward_hook(keep(place))
    mean, std = plan.normalization.mean, plan.normalization.std
    pixels = (images - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    if classes is not None:
        found["logits"] = logits.numpy()
    return found


def of_applications(stored, plan, variant, images):
    """keras.applications' network with {layer name: arrays}."""
    import keras

    v1 = variant.family is V1
    size = variant.name.partition("-")[2].upper()
    build = getattr(keras.applications, f"EfficientNet{'' if v1 else 'V2'}{size}")
    head = stored.get("predictions")
    options = {} if v1 else {"include_preprocessing": False}
    theirs = build(
        weights=None,
        include_top=head is not None,
        classes=1000 if head is None else len(head[1]),
        classifier_activation=None,
        input_shape=images.shape[1:],
        **options,
    )
    for name, arrays in stored.items():
        theirs.get_layer(name).set_weights(arrays)
    mean, std = (np.array(x) for x in (plan.normalization.mean, plan.normalization.std))
    if not v1:
        return of_keras(theirs, plan, (images - np.float32(mean)) / np.float32(std))
    for layer in theirs.layers:  # its pixels are in [0, 1] there
        if type(layer).__name__ == "Normalization":
            layer.set_weights([mean / 255, (std / 255) ** 2, np.zeros((), "int32")])
            layer.finalize_state()
    return of_keras(theirs, plan, images)


def _numbers(tensor):
    import keras

    to_numpy = getattr(getattr(keras, "ops", None), "convert_to_numpy", np.asarray)
    return to_numpy(tensor)
