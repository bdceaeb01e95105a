"""Model constructors: one function for each variant, and ``create_model`` for any.

The functions have the signatures of keras.applications.
"""

from __future__ import annotations

import numbers
import os
from dataclasses import replace

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.network_plan import MIN_IMAGE_SIZE, plan
from keras_effnet.pretrained.registry import default_preprocessing
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.variant_lookup import find_variant
from keras_effnet.variants import Variant

_ARGUMENTS = """

    Input: (batch, height, width, 3) of any number type, RGB in [0, 255]; the model normalizes it.
    Output: (batch, classes), float32; feature maps with ``include_top=False``.

    The first arguments are keras.applications', in its order and with its defaults:

    Args:
        include_top: whether to add the classifier (average pooling, dropout, dense).
        weights: None for random weights; a name of ``list_weights(variant)``, e.g. "imagenet";
            "auto" for the pretrained weights with the best published top-1; the path of a
            ``.keras``, ``.weights.h5`` or ``.h5`` file; or ``hf://OWNER/NAME`` (and ``@REVISION``)
            for a repository of the Hugging Face hub. For another number of classes the
            classifier is new (with a warning; from the hub this is an error); 21,843 and 1,001
            classes are mapped to 1,000; the stem is adapted to other channel counts.
        input_tensor: a Keras tensor to use as input instead of a new one; `input_shape` may be
            omitted, or must agree.
        input_shape: (height, width, channels); height and width may be None, also with the
            classifier. Default: with the classifier, the size at which the weights were evaluated;
            without, any size.
        pooling: without the classifier: None for feature maps, "avg" or "max" for vectors.
        classes: number of outputs of the classifier.
        classifier_activation: "softmax", None for logits, or any Keras activation.
        include_preprocessing: whether the model normalizes pixels, as its weights require. If not,
            apply the `normalization` of the weights' row yourself.
        name: of the model.
        drop_path_rate: stochastic-depth rate at the last block (default: the variant's, 0.2).
        dropout_rate: before the classifier (default: the variant's).
        preprocessing: the ``Preprocessing`` that ``preprocessing(model)`` returns (default: that of
            the weights, or else the variant's published evaluation).
        name_prefix: precedes the names of all layers, for two networks in one model.

    Returns:
        A functional ``keras.Model`` of stock layers.

    Raises:
        ValueError: an invalid argument, or weights that do not fit; says what is accepted.
        DownloadError: weights that are unavailable, or not the published ones.
    """


def create_model(
    model: str | Variant,
    *,
    include_top=True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor=None,
    input_shape=None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation="softmax",
    include_preprocessing=True,
    name: str | None = None,
    drop_path_rate: float | None = None,
    dropout_rate: float | None = None,
    preprocessing: Preprocessing | None = None,
    name_prefix: str = "",
):
    """A ``keras.Model`` of a variant: a name of ``list_models()``, a ``.json`` file, a ``Variant``.

    The names "mobilenetv2" and "resnet50" are accepted as well; no pretrained weights exist for
    them. The other arguments are those of ``EfficientNetB0``, but `weights` defaults to None and
    `name` to the variant's. `name_prefix` precedes that name and the names of all layers, so that
    two networks can be called, or joined by their ``input`` and ``output``, in one model, where
    names must differ. (A network called as a layer of another model needs only a `name`.)

    >>> create_model("efficientnetv2-b0", classes=10, input_shape=(64, 64, 3)).output_shape
    (None, 10)
    """
    variant = find_variant(model)
    resolved = plan(variant, drop_path_rate=drop_path_rate, dropout_rate=dropout_rate)
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling {pooling!r} is unknown: give None, 'avg' or 'max'")
    if include_top and not (_is_count(classes) and classes >= 1):
        raise ValueError(
            f"classes {classes!r} is not a number of classes: give a whole number of at least 1"
        )
    if not isinstance(name_prefix, (str, type(None))) or "/" in (name_prefix or ""):
        raise ValueError(
            f"name_prefix {name_prefix!r} is not text without slashes, e.g. 'left_': Keras cannot "
            "load layers of other names"
        )
    resolved_weights = resolve_weights(
        variant.name, weights, classes=classes if include_top else None
    )
    input_spec = resolved_weights.input_spec
    preprocessing = preprocessing or input_spec.preprocessing
    resolved = replace(
        resolved,
        normalization=input_spec.normalization or resolved.normalization,
        bn_epsilon=input_spec.bn_epsilon or resolved.bn_epsilon,
        padding=input_spec.padding or resolved.padding,
    )

    import keras  # here, so that tables and plans are read without loading a framework

    from keras_effnet.model import build

    channels_last = keras.backend.image_data_format() == "channels_last"
    if input_tensor is None:
        if input_shape is None:
            evaluated = preprocessing.image_size if preprocessing else variant.image_size
            side = evaluated if include_top else None
            input_shape = (side, side, 3) if channels_last else (3, side, side)
        input_tensor = keras.Input(shape=_checked("input_shape", input_shape, channels_last))
    elif not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor is a {type(input_tensor).__name__}, not a Keras tensor: give "
            "keras.Input(...) or a layer's output, or build without it and call the model"
        )
    else:
        shape = _checked("input_tensor of shape", tuple(input_tensor.shape)[1:], channels_last)
        given = _checked("input_shape", input_shape or shape, channels_last)
        if any(None not in (a, b) and a != b for a, b in zip(shape, given)):
            raise ValueError(
                f"input_shape {given} differs from the shape {shape} of input_tensor: drop one, or "
                "give the tensor's"
            )
    if preprocessing is None:
        shape = tuple(input_tensor.shape)[1:]
        height, width = shape[:2] if channels_last else shape[1:]
        preprocessing = default_preprocessing(variant)
        if height is not None and height == width:
            preprocessing = replace(preprocessing, image_size=height)
    path = resolved_weights.local_file(resolved, include_top=include_top)
    network = build(
        resolved,
        include_top=include_top,
        inputs=input_tensor,
        pooling=pooling,
        classes=int(classes) if include_top else None,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        name=f"{name_prefix or ''}{variant.name}" if name is None else name,
    )
    if path is not None:
        from keras_effnet.pretrained.assign import load_pretrained

        load_pretrained(network, path)
    if name_prefix:  # after the weights, which are found by name
        attribute = "_name" if keras.__version__.startswith("2.") else "name"
        theirs = {id(x) for x in keras.Model(network.inputs, input_tensor).layers}
        for layer in network.layers:
            if id(layer) not in theirs:
                setattr(layer, attribute, f"{name_prefix}{layer.name}")
        if attribute == "_name":  # Keras 2 keeps the old names in the model
            network = keras.Model(network.inputs, network.outputs, name=network.name)
    return network


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)  # NumPy's too


def _are_images(size, channels):
    """Whether numbers can be (height, width) and the channels of images."""
    large = all(side is None or side >= MIN_IMAGE_SIZE for side in size)
    return large and channels is not None and 1 <= channels < MIN_IMAGE_SIZE


def _checked(what, shape, channels_last):
    """An image's shape as a tuple; ``ValueError`` for an invalid one."""
    if not isinstance(shape, (tuple, list)) or not all(n is None or _is_count(n) for n in shape):
        raise ValueError(
            f"{what} {shape!r} is not a shape: give three whole numbers, e.g. (224, 224, 3)"
        )
    shape = tuple(n if n is None else int(n) for n in shape)
    if len(shape) != 3:
        raise ValueError(
            f"{what} {shape} has {len(shape)} numbers: give (height, width, channels), "
            "without the batch size"
        )
    *size, channels = shape if channels_last else (*shape[1:], shape[0])
    swapped = (*shape[1:], shape[0]) if channels_last else (shape[-1], *shape[:-1])
    *other_size, other_channels = swapped if channels_last else shape
    if not _are_images(size, channels) and _are_images(other_size, other_channels):
        here, there = ("last", "first") if channels_last else ("first", "last")
        raise ValueError(
            f"{what} {shape} looks like channels_{there}, but Keras is set to channels_{here}: "
            f"give {swapped}, or call keras.backend.set_image_data_format('channels_{there}')"
        )
    if channels is None or channels < 1:
        raise ValueError(
            f"{what} {shape} lacks the number of channels: Keras is set to channels_"
            f"{'last' if channels_last else 'first'}, so give e.g. 3 there"
        )
    for side in size:
        if side is not None and side < MIN_IMAGE_SIZE:
            raise ValueError(
                f"{what} {shape} is too small: the network halves the image five times. "
                f"Give at least {MIN_IMAGE_SIZE} pixels a side, or enlarge the images"
            )
    return shape


def _v1(variant: str, function: str, default_name: str | None = None):
    """A constructor with keras.applications' V1 signature and `include_preprocessing`."""

    def constructor(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        name=default_name or variant,
        *,
        include_preprocessing=True,
        drop_path_rate=None,
        dropout_rate=None,
        preprocessing=None,
        name_prefix="",
    ):
        return create_model(
            variant,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
            drop_path_rate=drop_path_rate,
            dropout_rate=dropout_rate,
            preprocessing=preprocessing,
            name_prefix=name_prefix,
        )

    return _named(constructor, function, variant)


def _v2(variant: str, function: str):
    """A constructor with keras.applications' V2 signature."""

    def constructor(
        include_top=True,
        weights="imagenet",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        include_preprocessing=True,
        name=variant,
        *,
        drop_path_rate=None,
        dropout_rate=None,
        preprocessing=None,
        name_prefix="",
    ):
        return create_model(
            variant,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
            drop_path_rate=drop_path_rate,
            dropout_rate=dropout_rate,
            preprocessing=preprocessing,
            name_prefix=name_prefix,
        )

    return _named(constructor, function, variant)


def _named(constructor, function, variant):
    constructor.__name__ = constructor.__qualname__ = function
    constructor.__doc__ = f"Builds {variant}, {find_variant(variant).image_size} px.{_ARGUMENTS}"
    return constructor


EfficientNetB0 = _v1("efficientnet-b0", "EfficientNetB0", "efficientnetb0")
EfficientNetB1 = _v1("efficientnet-b1", "EfficientNetB1", "efficientnetb1")
EfficientNetB2 = _v1("efficientnet-b2", "EfficientNetB2", "efficientnetb2")
EfficientNetB3 = _v1("efficientnet-b3", "EfficientNetB3", "efficientnetb3")
EfficientNetB4 = _v1("efficientnet-b4", "EfficientNetB4", "efficientnetb4")
EfficientNetB5 = _v1("efficientnet-b5", "EfficientNetB5", "efficientnetb5")
EfficientNetB6 = _v1("efficientnet-b6", "EfficientNetB6", "efficientnetb6")
EfficientNetB7 = _v1("efficientnet-b7", "EfficientNetB7", "efficientnetb7")
EfficientNetB8 = _v1("efficientnet-b8", "EfficientNetB8", "efficientnetb8")
EfficientNetL2 = _v1("efficientnet-l2", "EfficientNetL2", "efficientnetl2")
EfficientNetLite0 = _v1("efficientnet-lite0", "EfficientNetLite0")
EfficientNetLite1 = _v1("efficientnet-lite1", "EfficientNetLite1")
EfficientNetLite2 = _v1("efficientnet-lite2", "EfficientNetLite2")
EfficientNetLite3 = _v1("efficientnet-lite3", "EfficientNetLite3")
EfficientNetLite4 = _v1("efficientnet-lite4", "EfficientNetLite4")
EfficientNetV2B0 = _v2("efficientnetv2-b0", "EfficientNetV2B0")
EfficientNetV2B1 = _v2("efficientnetv2-b1", "EfficientNetV2B1")
EfficientNetV2B2 = _v2("efficientnetv2-b2", "EfficientNetV2B2")
EfficientNetV2B3 = _v2("efficientnetv2-b3", "EfficientNetV2B3")
EfficientNetV2S = _v2("efficientnetv2-s", "EfficientNetV2S")
EfficientNetV2M = _v2("efficientnetv2-m", "EfficientNetV2M")
EfficientNetV2L = _v2("efficientnetv2-l", "EfficientNetV2L")
EfficientNetV2XL = _v2("efficientnetv2-xl", "EfficientNetV2XL")
