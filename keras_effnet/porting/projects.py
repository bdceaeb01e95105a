"""The projects whose checkpoints can be ported, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.porting import keras_applications, keras_h5, pytorch, reference_models
from keras_effnet.pretrained import state_dicts, tf_checkpoint
from keras_effnet.pretrained.layer_names import LayerNames
from keras_effnet.pretrained.package_files import LUKEMELAS
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import Variant


@dataclass(frozen=True)
class Project:
    """A project: its networks, how to read and write its files, and how to run its networks."""

    name: str
    files: str
    variants: Mapping[str, Variant]  # the project's name of a network -> our variant
    read: Callable  # (path, plan, include_top=) -> {our layer's name: arrays}
    outputs: Callable | None = None  # (reference_models.Checkpoint, images) -> {place: array}
    write: LayerNames | None = None  # the names in a state dict; None: files are only read
    # the project's name of a network -> preprocessing, where the project states it
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)


PROJECTS = {
    row.name: row
    for row in (
        Project(
            name="keras-applications",
            files=".h5, .weights.h5 or .keras",
            variants=keras_applications.APPLICATIONS_VARIANTS,
            read=keras_applications.read,
            outputs=reference_models.applications_outputs,
        ),
        Project(
            name="qubvel",
            files=".h5 of qubvel/efficientnet",
            variants=keras_h5.QUBVEL_VARIANTS,
            read=partial(keras_h5.read, names=keras_h5.QUBVEL),
        ),
        Project(
            name="leondgarse",
            files=".h5 of keras_efficientnet_v2 or keras_cv_attention_models",
            variants=keras_h5.LEONDGARSE_VARIANTS,
            read=partial(keras_h5.read, names=keras_h5.LEONDGARSE),
        ),
        Project(
            name="tensorflow",
            files="checkpoints of tensorflow/tpu (V1, Lite) and google/automl (V2)",
            variants=tf_checkpoint.CHECKPOINT_VARIANTS,
            read=tf_checkpoint.read,
        ),
        Project(
            name="timm",
            files=".safetensors or .pth state dicts",
            variants=pytorch.TIMM_VARIANTS,
            read=partial(state_dicts.read, names=pytorch.TIMM),
            outputs=reference_models.timm_outputs,
            write=pytorch.TIMM,
        ),
        Project(
            name="torchvision",
            files=".safetensors or .pth state dicts",
            variants=pytorch.TORCHVISION_VARIANTS,
            read=partial(state_dicts.read, names=pytorch.TORCHVISION),
            outputs=reference_models.torchvision_outputs,
            write=pytorch.TORCHVISION,
            preprocessing=pytorch.TORCHVISION_PREPROCESSING,
        ),
        Project(
            name="lukemelas",
            files=".safetensors or .pth state dicts of efficientnet_pytorch",
            variants=pytorch.LUKEMELAS_VARIANTS,
            read=partial(state_dicts.read, names=LUKEMELAS),
            outputs=partial(reference_models.lukemelas_outputs, package="efficientnet_pytorch"),
            write=LUKEMELAS,
        ),
        Project(
            name="efficientnet-lite-pytorch",
            files=".safetensors or .pth state dicts of efficientnet_lite_pytorch",
            variants=pytorch.LITE_PYTORCH_VARIANTS,
            read=partial(state_dicts.read, names=LUKEMELAS),
            outputs=partial(
                reference_models.lukemelas_outputs, package="efficientnet_lite_pytorch"
            ),
            write=LUKEMELAS,
        ),
    )
}


def find_project(name: str) -> Project:
    """The :class:`Project` of that name; raises ``ValueError`` with the known ones otherwise."""
    if name not in PROJECTS:
        raise ValueError(unknown_name("project", name, PROJECTS))
    return PROJECTS[name]


def find_network(project: Project, model: str) -> tuple[str, Variant]:
    """(the project's name, our ``Variant``) of a network, given by the project's name or ours.

    Raises ``ValueError`` for an unknown name, and for a name of ours that the project has twice:
    timm's ``tf_efficientnet_b0`` and ``efficientnet_b0`` have weights of the same shapes but give
    different outputs, so a file does not tell them apart.

    >>> find_network(PROJECTS["torchvision"], "efficientnet-b0")[0]
    'efficientnet_b0'
    """
    if model in project.variants:
        return model, project.variants[model]
    matches = {name: v for name, v in project.variants.items() if v.name == model}
    if len(matches) == 1:
        return next(iter(matches.items()))
    if matches:
        choices = (
            f"{name!r} (epsilon {v.bn_epsilon:g}, {v.padding} padding)"
            for name, v in matches.items()
        )
        raise ValueError(
            f"{project.name} has {model} more than once, and a file does not state which it is: "
            f"give {' or '.join(choices)} as the model"
        )
    raise ValueError(unknown_name(f"model of {project.name}", model, project.variants))
