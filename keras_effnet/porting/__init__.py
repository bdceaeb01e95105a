"""Ports checkpoints of other projects, comparing outputs with the original network's.

Projects: keras.applications, qubvel/efficientnet, leondgarse's keras_efficientnet_v2 and kecam,
Google's TensorFlow checkpoints, timm, torchvision, lukemelas/EfficientNet-PyTorch and
efficientnet_lite_pytorch (:data:`PROJECTS`). Models can also be exported as state dicts of the last
four. Importing this package imports no framework.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import replace

from keras_effnet.atomic_write import replacing
from keras_effnet.network_plan import plan
from keras_effnet.porting.parity_report import Difference, ParityReport
from keras_effnet.porting.projects import PROJECTS, Project, find_project
from keras_effnet.porting.reference_models import (
    Checkpoint,
    NotRunnableError,
    keras_outputs,
    random_images,
)
from keras_effnet.pretrained.input_settings import GivenSettings, resolve_settings
from keras_effnet.pretrained.input_spec import InputSpec, read_input_spec
from keras_effnet.pretrained.pytorch_projects import find_network
from keras_effnet.pretrained.registry import default_preprocessing
from keras_effnet.pretrained.timm_config import read_config
from keras_effnet.variants import VARIANTS

__all__ = [
    "PROJECTS",
    "Difference",
    "GivenSettings",
    "ParityReport",
    "export",
    "port",
    "why_not_comparable",
]

_LOG = logging.getLogger("keras_effnet")


def port(
    path: str | os.PathLike[str],
    model: str,
    *,
    source: str,
    classes: int | None = None,
    include_top: bool = True,
    image_size: int | None = None,
    given: GivenSettings = GivenSettings(),  # noqa: B008  # immutable
    compare: bool = True,
    log: Callable[[str], None] = _LOG.info,
):
    """``(keras.Model, ParityReport)``: one of our networks with another project's weights.

    The model maps (batch, size, size, 3) pixels in [0, 255] to (batch, classes) probabilities, or
    to (batch, size / 32, size / 32, channels) without `include_top`. If the project's package can
    be imported, both networks run on the same random images, and the report states how far their
    outputs differ after every block. For each setting of the images it states whether the caller,
    the file or timm's ``config.json`` beside it gave it, or whether it is assumed.

    Args:
        path: a file of the project; for "tensorflow" a checkpoint's prefix or folder.
        model: the network's name in the project ("tf_efficientnet_b0", with or without timm's
            suffix ".ns_jft_in1k") or ours ("efficientnet-b0").
        source: the project, a name of :data:`PROJECTS`.
        classes: the number of classes that the file must have; None accepts any.
        include_top: whether to keep the classifier.
        image_size: pixels a side of the model; the same as ``given.image_size``.
        given: a :class:`GivenSettings`: what is known about the images that the weights expect.
        compare: whether to run the project's network.
        log: receives a line before each slow part.

    Raises:
        ValueError: an unknown name; a file that is damaged or of another kind, naming every missing
            and left-over weight; another number of classes; or a setting out of range.

    >>> port("model.safetensors", "efficientnet-b9", source="torchvision")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: Unknown model of torchvision 'efficientnet-b9'. Did you mean ...
    """
    project = find_project(source)
    model = model.partition(".")[0]  # timm's names may end in the weights' name: .ns_jft_in1k
    config = read_config(path) if source == "timm" else {}
    name, variant = find_network(project, _configured_name(project, model, config, path))
    usual = project.preprocessing.get(name) or default_preprocessing(VARIANTS[variant.name])
    images = resolve_settings(
        replace(given, image_size=image_size or given.image_size),
        _stated(path),
        config,
        InputSpec(usual, variant.normalization),
    )
    size = images.preprocessing.image_size
    variant = replace(variant, normalization=images.normalization, image_size=size)
    resolved = plan(variant)
    weights = project.read(path, resolved, include_top=include_top)
    classes = _classes(path, weights, classes) if include_top else 1000

    from keras_effnet.constructors import create_model
    from keras_effnet.pretrained.assign import assign_weights

    log(f"building {variant.name} for {size} x {size} pixels")
    network = create_model(
        variant,
        include_top=include_top,
        classes=classes,
        preprocessing=images.preprocessing,
    )
    assign_weights(network, weights, path)
    differences, not_compared = (), "not requested"
    if compare:
        log(f"running the network of {source} and this one on random images")
        checkpoint = Checkpoint(path, name, resolved, weights)
        differences, not_compared = _compare(project, checkpoint, network)
    return network, ParityReport(
        source=f"{source} {name}",
        path=os.fspath(path),
        model=variant.name,
        mapped=sum(len(arrays) for arrays in weights.values()),
        total=len(network.weights),
        notes=_notes(resolved, images.preprocessing),
        differences=differences,
        not_compared=not_compared,
        settings=images.settings,
    )


def why_not_comparable(source: str) -> str:
    """Why the network of a project cannot be run here; "" if its package is installed."""
    project = find_project(source)
    if project.outputs is None:
        return f"{source} is not a package that can be run here"
    if importlib.util.find_spec(project.package) is None:
        return f"the package {project.package} is not installed"
    return ""


def _stated(path):
    """What a Keras file states about its images; nothing for another file."""
    path = os.fspath(path)
    return read_input_spec(path) if path.endswith((".h5", ".keras")) else InputSpec()


def export(model, path: str | os.PathLike[str], *, target: str, name: str) -> None:
    """Writes a model as a ``.safetensors`` state dict of a PyTorch project, atomically.

    Its ``load_state_dict`` accepts it strictly. `target` is "timm", "torchvision", "lukemelas" or
    "efficientnet-lite-pytorch", `name` the network's name there or ours. Raises ``ValueError`` for
    a model whose batch-norm epsilon, padding or layers differ from that network's: it would load
    but give other outputs.
    """
    project = find_project(target)
    if project.write is None:
        writable = ", ".join(n for n, p in PROJECTS.items() if p.write is not None)
        raise ValueError(f"{target} files can be read, not written: give one of {writable}")
    target_name, variant = find_network(project, name)
    layers = {layer.name: layer for layer in model.layers}
    if "stem_bn" not in layers:
        raise ValueError(f"{model.name} is not a network of keras_effnet: it has no stem_bn")
    epsilon = layers["stem_bn"].epsilon
    padding = "symmetric" if "stem_conv_pad" in layers else "same"
    if (epsilon, padding) != (variant.bn_epsilon, variant.padding):
        raise ValueError(
            f"{model.name} has epsilon {epsilon:g} and {padding} padding, and {target}'s "
            f"{target_name} has {variant.bn_epsilon:g} and {variant.padding}: it would give other "
            "outputs there"
        )
    from keras_effnet.porting import pytorch

    with replacing(path) as temporary:
        pytorch.write(model, temporary, plan(variant), project.write)


def _configured_name(project, model, config, path):
    """The network's name; a config.json beside the file decides between two candidates."""
    architecture = config.get("architecture")
    if architecture is None or architecture not in project.variants:
        return model
    if model in (architecture, project.variants[architecture].name):
        return architecture
    raise ValueError(f"{path} is of {architecture} by the config.json beside it, not of {model}")


def _classes(path, weights, classes):
    if "predictions" not in weights:
        raise ValueError(
            f"{path} has no classifier: port it with include_top=False (--no_top), and add your own"
        )
    stored = len(weights["predictions"][1])
    if classes not in (None, stored):
        raise ValueError(
            f"{path} has {stored} classes, but classes={classes} was given: port it with its own "
            "(classes=None), or without (include_top=False, --no_top) and add a new classifier"
        )
    return stored


def _compare(project: Project, checkpoint: Checkpoint, network):
    """(differences, ""), or ((), the reason why outputs were not compared)."""
    if project.outputs is None:
        return (), why_not_comparable(project.name)
    images = random_images(checkpoint.plan.image_size)
    try:
        reference = project.outputs(checkpoint, images)
    except NotRunnableError as error:
        return (), str(error)
    ours = keras_outputs(network, checkpoint.plan, images)
    return tuple(
        Difference(
            place,
            float(abs(reference[place]).max()),
            float(abs(output - reference[place]).max()),
        )
        for place, output in ours.items()
    ), ""


def _notes(resolved, preprocessing):
    constants = resolved.normalization
    mean, std = (", ".join(f"{x:g}" for x in v) for v in (constants.mean, constants.std))
    return (
        f"batch-norm epsilon {resolved.bn_epsilon:g}, {resolved.padding} padding, "
        f"normalization (pixels - [{mean}]) / [{std}]",
        f"images: {preprocessing}",
    )
