"""How a network is asked for: one function a variant, with keras.applications' signatures, and
``create_model``.
"""

import numbers
from dataclasses import replace

from keras_effnet.network_plan import MIN_IMAGE_SIZE, plan
from keras_effnet.pretrained import files as weight_files
from keras_effnet.pretrained.registry import PretrainedWeights, default_preprocessing
from keras_effnet.variants import Variant, find_variant

_ARGUMENTS = """

    Images come in as (batch, height, width, 3), any number type, RGB in [0, 255]; normalisation is
    in the model. The output is (batch, classes), float32, or feature maps with
    ``include_top=False``.

    The first arguments are keras.applications', in its order and with its defaults:

    Args:
        include_top: whether to end in the classifier (average pooling, dropout, dense).
        weights: None for random weights; a released set (``list_weights(variant)``, e.g.
            "imagenet"); "auto" for the one with the best published top-1; or the path of a
            ``.keras``, ``.weights.h5`` or ``.h5`` file. Another class count gets a new classifier
            (with a warning), 21,843 and 1,001 classes are mapped to 1,000, and the stem is adapted
            to other channel counts.
        input_tensor: a Keras tensor to build upon instead of a new input.
        input_shape: (height, width, channels); height and width may be None, also with the
            classifier. Default: the size that its weights were evaluated at with it, and any size
            without.
        pooling: without the classifier: None for feature maps, "avg" or "max" for vectors.
        classes: width of the classifier.
        classifier_activation: "softmax", None for logits, or any Keras activation.
        include_preprocessing: whether the model normalises pixels itself, as the weights need it;
            without it, give what `normalization` of the weights' row would make of them.
        name: of the model; any.
        drop_path_rate: stochastic depth's rate at the last block (default: the variant's, 0.2).
        dropout_rate: before the classifier (default: the variant's).
        preprocessing: a ``Preprocessing``, what ``preprocessing(model)`` shall say of the images
            (default: what the weights say; then the variant's published evaluation).

    Returns:
        A functional ``keras.Model`` of stock layers.

    Raises:
        ValueError: an argument that cannot work, or weights that do not fit; says which, and what
            would.
        DownloadError: weights that cannot be had, or are not the published ones.
    """


def create_model(
    model,
    *,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    include_preprocessing=True,
    name=None,
    drop_path_rate=None,
    dropout_rate=None,
    preprocessing=None,
):
    """Builds any variant: `model` is a name of ``list_models()`` or a ``Variant`` of your own.

    Everything else is as in ``EfficientNetB0``, but `weights` defaults to None and `name` to the
    variant's.

    >>> create_model("efficientnetv2-b0", classes=10, input_shape=(64, 64, 3)).output_shape
    (None, 10)
    """
    variant = model if isinstance(model, Variant) else find_variant(model)
    resolved = plan(variant, drop_path_rate=drop_path_rate, dropout_rate=dropout_rate)
    source = weight_files.find(variant.name, weights)
    said = source if isinstance(source, PretrainedWeights) else weight_files.read_input_spec(source)
    preprocessing = preprocessing or said.preprocessing
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling {pooling!r} is not known: give None, 'avg' or 'max'")
    if include_top and not (_is_count(classes) and classes >= 1):
        raise ValueError(
            f"classes {classes!r} is not a number of classes: give a whole number of at least 1"
        )

    import keras  # here, so that tables and plans are read without waiting for a framework

    from keras_effnet.model import build

    channels_last = keras.backend.image_data_format() == "channels_last"
    if input_tensor is None:
        if input_shape is None:
            said_size = preprocessing.image_size if preprocessing else variant.image_size
            side = said_size if include_top else None
            input_shape = (side, side, 3) if channels_last else (3, side, side)
        input_tensor = keras.Input(shape=_checked("input_shape", input_shape, channels_last))
    elif input_shape is not None:
        raise ValueError(
            "input_tensor and input_shape were both given: the tensor has a shape already; drop one"
        )
    elif not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor is a {type(input_tensor).__name__}, not a Keras tensor: give "
            "keras.Input(...) or a layer's output, or build without it and call the model"
        )
    else:
        _checked("input_tensor of shape", tuple(input_tensor.shape)[1:], channels_last)
    if preprocessing is None:
        shape = tuple(input_tensor.shape)[1:]
        height, width = shape[:2] if channels_last else shape[1:]
        preprocessing = default_preprocessing(variant)
        if height is not None and height == width:  # no weights say otherwise
            preprocessing = replace(preprocessing, image_size=height)
    path = source
    if isinstance(source, PretrainedWeights):
        path = weight_files.fetch(source, resolved, include_top=include_top)
    network = build(
        replace(resolved, normalization=said.normalization or resolved.normalization),
        include_top=include_top,
        inputs=input_tensor,
        pooling=pooling,
        classes=int(classes) if include_top else None,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        preprocessing=preprocessing,
        name=variant.name if name is None else name,
    )
    if path is not None:
        weight_files.load(network, path)
    return network


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)  # NumPy's too


def _checked(what, shape, channels_last):
    """An image's shape as a tuple, or a ValueError that says what is wrong with it."""
    if not isinstance(shape, (tuple, list)) or not all(n is None or _is_count(n) for n in shape):
        raise ValueError(
            f"{what} {shape!r} is not a shape: give three whole numbers, e.g. (224, 224, 3)"
        )
    shape = tuple(n if n is None else int(n) for n in shape)
    if len(shape) != 3:
        raise ValueError(
            f"{what} {shape} has {len(shape)} numbers: give (height, width, channels), "
            "without the batch"
        )
    *size, channels = shape if channels_last else (*shape[1:], shape[0])
    if channels is None or channels < 1:
        raise ValueError(
            f"{what} {shape} has no channel count: Keras is set to channels_"
            f"{'last' if channels_last else 'first'}, so give e.g. 3 there"
        )
    for side in size:
        if side is not None and side < MIN_IMAGE_SIZE:
            raise ValueError(
                f"{what} {shape} is too small: the network halves the image five times, "
                f"so give at least {MIN_IMAGE_SIZE} pixels a side, or enlarge the images"
            )
    return shape


def _v1(variant, function, default_name=None):
    """keras.applications' V1 signature, with `include_preprocessing` behind it."""

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
        )

    return _named(constructor, function, variant)


def _v2(variant, function):
    """keras.applications' V2 signature."""

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
