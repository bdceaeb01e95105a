"""The projects whose checkpoints can be ported, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.porting import keras_applications, keras_h5, reference_models
from keras_effnet.pretrained import state_dicts, tf_checkpoint
from keras_effnet.pretrained.layer_names import LayerNames
from keras_effnet.pretrained.pytorch_projects import PYTORCH_PROJECTS
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
    package: str | None = None  # that `outputs` runs
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
            package="keras",
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
        *(
            Project(
                name=row.name,
                files=f".safetensors or .pth state dicts{of}",
                variants=row.variants,
                read=partial(state_dicts.read, names=row.names),
                outputs=outputs,
                package=package,
                write=row.names,
                preprocessing=row.preprocessing,
            )
            for row, package, of, outputs in (
                (PYTORCH_PROJECTS["timm"], "timm", "", reference_models.timm_outputs),
                (
                    PYTORCH_PROJECTS["torchvision"],
                    "torchvision",
                    "",
                    reference_models.torchvision_outputs,
                ),
                *(
                    (
                        PYTORCH_PROJECTS[name],
                        package,
                        f" of {package}",
                        partial(reference_models.lukemelas_outputs, package=package),
                    )
                    for name, package in (
                        ("lukemelas", "efficientnet_pytorch"),
                        ("efficientnet-lite-pytorch", "efficientnet_lite_pytorch"),
                    )
                ),
            )
        ),
    )
}


def find_project(name: str) -> Project:
    """The :class:`Project` of that name; raises ``ValueError`` with the known ones otherwise."""
    if name not in PROJECTS:
        raise ValueError(unknown_name("project", name, PROJECTS))
    return PROJECTS[name]
