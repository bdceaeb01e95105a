"""Reads weight files of keras.applications: ``.h5``, ``.weights.h5``, ``.keras``.

Its layers have the same names as ours, so :mod:`keras_effnet.pretrained.files` reads the arrays.
"""

from __future__ import annotations

import os

import numpy as np

from keras_effnet.network_plan import Plan
from keras_effnet.variants import VARIANTS

# our variant -> the function of keras.applications that builds it
APPLICATIONS_FUNCTIONS = {
    **{f"efficientnet-b{i}": f"EfficientNetB{i}" for i in range(8)},
    **{f"efficientnetv2-b{i}": f"EfficientNetV2B{i}" for i in range(4)},
    "efficientnetv2-s": "EfficientNetV2S",
    "efficientnetv2-m": "EfficientNetV2M",
    "efficientnetv2-l": "EfficientNetV2L",
}
APPLICATIONS_VARIANTS = {name: VARIANTS[name] for name in APPLICATIONS_FUNCTIONS}


def read(
    path: str | os.PathLike[str], plan: Plan, *, include_top: bool = True
) -> dict[str, list[np.ndarray]]:
    """{layer name: arrays, in the order of ``layer.weights``} of a keras.applications file.

    Without `include_top` a classifier in the file is skipped. Raises ``ValueError`` for another
    kind of file; ``assign_weights`` reports missing and left-over layers.
    """
    from keras_effnet.constructors import create_model
    from keras_effnet.pretrained.files import read_weights

    # a .weights.h5 file numbers its layers; the network's order gives their names
    model = create_model(plan.name, classes=1, input_shape=(None, None, 3))
    weights = read_weights(path, model.layers)
    if not include_top:
        weights.pop("predictions", None)
    return weights
