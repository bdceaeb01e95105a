"""Checks of a study with its data, before anything is trained or recorded. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_effnet.space_lookup import find_space
from tpu_train.search.limits import LimitedCompoundSpace, LimitedSpace, limit_space
from tpu_train.search.settings import SearchSettings
from tpu_train.search.trial_images import split_images


def check_study(
    settings: SearchSettings, name: str, classes: Sequence[str], labels: np.ndarray
) -> tuple[LimitedSpace | LimitedCompoundSpace, np.ndarray, np.ndarray]:
    """(the space with its limits, indices of the images to train on, indices of the minival).

    `name`, `classes` and `labels` are those of all training images. Raises ``ValueError`` for data
    that are too small, and for limits that no point of the space is under.
    """
    training, minival = split_images(name, labels, classes, settings.minival, settings.images)
    limited = limit_space(
        find_space(settings.space),
        image_size=settings.recipe.image_size_eval,
        classes=len(classes),
        max_parameters=settings.max_parameters,
        max_flops=settings.max_flops,
    )
    return limited, training, minival
