"""keras.applications' files: ``.h5``, ``.weights.h5``, ``.keras``. Their names are ours, so that
:mod:`keras_effnet.pretrained.files` reads them; here is only what `port` needs of a source.
"""

from keras_effnet.variants import VARIANTS

APPLICATIONS_VARIANTS = {
    name: VARIANTS[name]
    for name in (
        *(f"efficientnet-b{i}" for i in range(8)),
        *(f"efficientnetv2-{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")),
    )
}


def read(path, plan, *, include_top=True):
    """{layer's name: its arrays, in the order of ``layer.weights``} of keras.applications' file.

    Without `include_top` a classifier in the file is passed over. Raises ``ValueError`` for what is
    no such file; missing and left-over layers are named by ``weights.assign``.
    """
    from keras_effnet.constructors import create_model
    from keras_effnet.pretrained import files

    # a .weights.h5 numbers its layers, and the network's order names them
    skeleton = create_model(plan.name, classes=1, input_shape=(None, None, 3))
    stored = files.read(path, skeleton)
    if not include_top:
        stored.pop("predictions", None)
    return stored
