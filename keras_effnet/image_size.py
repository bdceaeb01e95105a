"""A model with the same weights at another image size."""

from __future__ import annotations

import numbers

from keras_effnet.model_structure import find_backbone
from keras_effnet.network_plan import MIN_IMAGE_SIZE
from keras_effnet.onnx_export import exportable
from keras_effnet.weight_transfer import copy_weights


def change_image_size(model, image_size: int | tuple[int, int] | None):
    """A new model with the same layers and equal weights for images of another size.

    `image_size` is pixels a side, (height, width), or None for any size. A convolutional network
    has the same weights at every size, so this is exact: the outputs are those of a model built at
    that size with these weights. Evaluating at a size 15 to 30 % larger than the training crops
    often increases accuracy without training (FixRes, arXiv 1906.06423). Names, dropout rates,
    preprocessing, new heads and frozen layers are kept; nothing is shared; compile the new model
    before training. Also works on a functional or sequential model with a nested EfficientNet.

    Raises ``ValueError`` for a size below 32 pixels, and for a model without an EfficientNet, with
    several inputs, that is neither functional nor sequential, or whose layers cannot be copied or
    have weights for one size only.

    >>> from keras_effnet import create_model
    >>> model = create_model("efficientnetv2-b0", input_shape=(64, 64, 3))
    >>> change_image_size(model, 96).input_shape
    (None, 96, 96, 3)
    """
    stem = find_backbone(model).layers["stem_conv"]
    resized = _at_size(model, _checked(image_size), stem.data_format == "channels_last")
    try:
        copy_weights(model, resized)
    except ValueError as error:
        raise ValueError(
            f"{model.name} has weights for one image size only ({error}): a layer with weights "
            "behind Flatten, for example; build it with pooling instead of Flatten"
        ) from error
    return exportable(resized)


def _checked(image_size):
    if image_size is None:
        return None, None
    several = isinstance(image_size, (tuple, list))
    size = tuple(image_size) if several else (image_size, image_size)
    whole = all(
        isinstance(n, numbers.Integral) and not isinstance(n, bool) and n >= MIN_IMAGE_SIZE
        for n in size
    )
    if len(size) != 2 or not whole:
        raise ValueError(
            f"image_size {image_size!r} is invalid: give pixels a side, at least "
            f"{MIN_IMAGE_SIZE}, a pair (height, width), or None for any size"
        )
    return tuple(int(n) for n in size)


def _at_size(model, size, channels_last):
    import keras

    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ValueError(
            f"{model.name} is not a functional or sequential model with images as its only input "
            f"(it has {len(inputs)} inputs): change the size of the EfficientNet in it, and "
            "rebuild the model around that"
        )
    old = inputs[0]
    batch, *shape = old.shape
    shape = (*size, shape[-1]) if channels_last else (shape[0], *size)
    new = keras.Input(shape=shape, batch_size=batch, dtype=old.dtype, name=old.name)

    def copy(layer):
        images = getattr(layer, "inputs", None) or ()
        if hasattr(layer, "layers") and len(images) == 1 and len(images[0].shape) == 4:
            return _at_size(layer, (None, None), channels_last)  # takes any size
        try:
            return layer.__class__.from_config(layer.get_config())
        except Exception as error:  # of a Lambda, or of a class of the user
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise ValueError(
                f"the layer {layer.name} of {model.name} cannot be copied ({reason}): use a stock "
                "layer, e.g. Rescaling, or a class with get_config, in place of Lambda"
            ) from error

    return keras.models.clone_model(model, input_tensors=new, clone_function=copy)
