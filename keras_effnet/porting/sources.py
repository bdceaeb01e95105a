"""The projects whose files can be ported, one row each."""

from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Optional

from keras_effnet.porting import keras_applications, keras_h5, pytorch, reference_models
from keras_effnet.pretrained import tf_checkpoint
from keras_effnet.pretrained.layer_names import Names
from keras_effnet.suggestions import unknown_name


@dataclass(frozen=True)
class Source:
    """One project: its networks, how its files are read and written, and how to run its own."""

    name: str
    files: str
    variants: dict  # the project's name of a network -> our Variant
    read: Callable  # (path, plan, include_top=) -> {our layer's name: arrays}
    outputs: Optional[Callable] = None  # (path, its name, plan, variant, stored, images) -> places
    write: Optional[Names] = None  # the names of a state dict; None where there is no way back
    preprocessing: dict = field(default_factory=dict)  # its name -> Preprocessing, where it says so


def _timm(path, name, plan, variant, stored, images):
    return reference_models.of_timm(path, name, plan, images)


def _torchvision(path, name, plan, variant, stored, images):
    return reference_models.of_torchvision(path, name, plan, images)


def _applications(path, name, plan, variant, stored, images):
    return reference_models.of_applications(stored, plan, variant, images)


SOURCES = {
    row.name: row
    for row in (
        Source(
            name="keras-applications",
            files=".h5, .weights.h5 or .keras",
            variants=keras_applications.APPLICATIONS_VARIANTS,
            read=keras_applications.read,
            outputs=_applications,
        ),
        Source(
            name="qubvel",
            files=".h5 of qubvel/efficientnet",
            variants=keras_h5.QUBVEL_VARIANTS,
            read=partial(keras_h5.read, names=keras_h5.QUBVEL),
        ),
        Source(
            name="leondgarse",
            files=".h5 of keras_efficientnet_v2 or keras_cv_attention_models",
            variants=keras_h5.LEONDGARSE_VARIANTS,
            read=partial(keras_h5.read, names=keras_h5.LEONDGARSE),
        ),
        Source(
            name="tensorflow",
            files="checkpoints of tensorflow/tpu (V1, Lite) and google/automl (V2)",
            variants=tf_checkpoint.CHECKPOINT_VARIANTS,
            read=tf_checkpoint.read,
        ),
        Source(
            name="timm",
            files=".safetensors or .pth state dicts",
            variants=pytorch.TIMM_VARIANTS,
            read=partial(pytorch.read, names=pytorch.TIMM),
            outputs=_timm,
            write=pytorch.TIMM,
        ),
        Source(
            name="torchvision",
            files=".safetensors or .pth state dicts",
            variants=pytorch.TORCHVISION_VARIANTS,
            read=partial(pytorch.read, names=pytorch.TORCHVISION),
            outputs=_torchvision,
            write=pytorch.TORCHVISION,
            preprocessing=pytorch.TORCHVISION_PREPROCESSING,
        ),
    )
}


def find_source(name):
    """The :class:`Source` of that name; raises ``ValueError`` with the known ones otherwise."""
    if name not in SOURCES:
        raise ValueError(unknown_name("source", name, SOURCES))
    return SOURCES[name]


def find_network(source, model):
    """(the source's name, our ``Variant``) of a model, given by its name there or by ours.

    Raises ``ValueError`` for a name that neither knows, and where a project has the network twice:
    timm's ``tf_efficientnet_b0`` and ``efficientnet_b0`` have the same weights' shapes and other
    answers, so that no file can tell them apart.

    >>> find_network(SOURCES["torchvision"], "efficientnet-b0")[0]
    'efficientnet_b0'
    """
    if model in source.variants:
        return model, source.variants[model]
    found = [name for name, variant in source.variants.items() if variant.name == model]
    if len(found) == 1:
        return found[0], source.variants[found[0]]
    if found:
        rows = (source.variants[name] for name in found)
        kinds = (
            f"{name!r} (epsilon {v.bn_epsilon:g}, {v.padding} padding)"
            for name, v in zip(found, rows)
        )
        raise ValueError(
            f"{model} is in {source.name} more than once, and a file does not say which it is of: "
            f"give {' or '.join(kinds)} as the model"
        )
    raise ValueError(unknown_name(f"model of {source.name}", model, source.variants))
