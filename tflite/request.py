"""A validated conversion request: every error that needs no images and no conversion."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras_effnet.compiled_loss import is_regression
from keras_effnet.image_preprocessing import preprocessing
from keras_effnet.litert import ops
from keras_effnet.litert.classifier import open_classifier
from keras_effnet.model_input import ImageInput
from keras_effnet.output_checks import output_activations
from tflite.export import image_shape
from tflite.presets import Preset, find_preset
from tflite.quantization.calibration import MIN_IMAGES
from tflite.quantization.mixed_precision import Budget
from tflite.quantization.options import ConversionOptions

# Default budget of int8_mixed: 99 %, plus the standard error on 1,536 held-out images.
MIN_AGREEMENT = 0.9925

_COMPRESSED = {"int8", "uint8", "int16", "float16", "hybrid"}  # parts of ``Op.types``


@dataclass(frozen=True, eq=False)
class ConversionRequest:
    """What to convert, and how."""

    keras_model: Any | None  # None for a request with a .tflite
    tflite_model: bytes | None  # the float32 .tflite; None for a Keras model
    preset: Preset
    budget: Budget | None  # only for int8_mixed
    options: ConversionOptions
    class_names: tuple[str, ...] | None
    height: int
    width: int
    classes: int
    image_input: ImageInput | None  # how photos become the model's images; None: stretched
    channels: int = 3  # 3: RGB, 1: grey
    is_classifier: bool = True  # else: outputs of any shape and number

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's images."""
        return self.height, self.width, self.channels

    @classmethod
    def validated(
        cls,
        model,
        *,
        preset: str | None = None,
        has_calibration: bool = False,
        has_evaluation: bool = False,
        budget: Budget | None = None,
        class_names: Sequence[str] | None = None,
        image_size=None,
        options: ConversionOptions | None = None,
    ) -> ConversionRequest:
        """The request; arguments as ``tflite.convert``.

        Raises:
            ValueError: arguments that are wrong or do not go together.
        """
        options = options or ConversionOptions()
        preset = chosen_preset(
            preset,
            budget,
            options,
            has_calibration=has_calibration,
            has_evaluation=has_evaluation,
        )
        if preset.name == "int8_mixed" and not budget and options.recipe is None:
            budget = Budget(min_agreement=MIN_AGREEMENT)
        image_input = None
        if isinstance(model, (bytes, bytearray)):
            opened = _open_float(bytes(model), image_size)
            height, width, classes = opened.height, opened.width, opened.classes
            channels, is_classifier = opened.channels, opened.is_classifier
            outputs, activation = len(opened.outputs), opened.output_activation
        else:
            height, width, channels = image_shape(model, image_size)
            outputs, activation = len(model.outputs), output_activations(model)[0]
            classes = model.outputs[0].shape[-1] if model.outputs[0].shape[1:] else 1
            is_classifier = (  # if the exported operations agree, see for_float_model
                outputs == 1
                and len(model.outputs[0].shape) == 2
                and (classes or 0) > 1
                and not _ends_in_pooling(model)
                # with names of its classes, it is a classifier that was trained by another loss
                and not (class_names is None and activation != "softmax" and is_regression(model))
            )
            with contextlib.suppress(ValueError):  # not built by keras_effnet
                stated = replace(preprocessing(model), image_size=height)
                image_input = ImageInput(stated, height, width, channels, channels_first=False)
        if not is_classifier:
            _check_no_classifier(preset, options, class_names, outputs)
        elif class_names is not None and len(class_names) != classes:
            raise ValueError(
                f"{len(class_names)} class names for a model with {classes} outputs; the names run "
                f"from {class_names[0]!r} to {class_names[-1]!r}"
            )
        if options.softmax and activation in ("softmax", "sigmoid"):
            check_logits(activation)
        is_tflite = isinstance(model, (bytes, bytearray))
        return cls(
            keras_model=None if is_tflite else model,
            tflite_model=bytes(model) if is_tflite else None,
            preset=preset,
            budget=budget if preset.name == "int8_mixed" else None,
            options=options,
            class_names=None if class_names is None else tuple(class_names),
            height=height,
            width=width,
            classes=classes,
            image_input=image_input,
            channels=channels,
            is_classifier=is_classifier,
        )

    def for_float_model(self, float32_model: bytes) -> ConversionRequest:
        """The request, with what the exported model tells: whether it is a classifier.

        Raises:
            ValueError: it is none, and the request asks for what only a classifier has.
        """
        if self.is_classifier and not open_classifier(float32_model).is_classifier:
            _check_no_classifier(self.preset, self.options, self.class_names, 1)
            return replace(self, is_classifier=False)
        return self


def check_logits(activation: str) -> None:
    """Raises ``ValueError`` if a softmax cannot be appended to outputs with this activation."""
    if activation != "logits":
        raise ValueError(
            f"softmax: the network ends in {activation}, and a softmax is appended to logits: "
            "leave it out"
        )


def chosen_preset(
    name: str | None,
    budget: Budget | None,
    options: ConversionOptions,
    *,
    has_calibration: bool,
    has_evaluation: bool = False,
) -> Preset:
    """The preset that a conversion uses, from arguments that need no model.

    Raises:
        ValueError: arguments that contradict each other.
    """
    recipe = options.recipe
    if name is None and recipe is not None and recipe.preset is not None:
        name = recipe.preset
    preset = find_preset(name or ("int8_mixed" if budget else "int8"))
    if recipe is not None:
        recipe.check_preset(preset)
        if budget:
            raise ValueError(
                f"{recipe.name} states which ops stay in float32, and so does a budget ({budget}): "
                "leave one of them out"
            )
    if budget and preset.name != "int8_mixed":
        raise ValueError(
            f"preset {preset.name} takes no budget ({budget}): leave it out, or use int8_mixed, "
            "which leaves ops in float32 to meet the budget"
        )
    if preset.calibrated and not has_calibration:
        raise ValueError(
            f"preset {preset.name} needs calibration images: a folder, an .npz or an array of 100 "
            "to 500 images that resemble those of later use"
        )
    if options.finetune and preset.activations != "int8":
        raise ValueError(
            f"preset {preset.name} cannot be fine-tuned: leave finetune out, or use int8 or "
            "int8_strict"
        )
    if preset.calibrated and (options.calibration_images or MIN_IMAGES) < MIN_IMAGES:
        raise ValueError(
            f"calibration_images {options.calibration_images} is fewer than the {MIN_IMAGES} that "
            f"preset {preset.name} needs: give 100 to 500, or leave it out"
        )
    if options.calibration_images is not None and not has_calibration:
        raise ValueError(
            f"calibration_images {options.calibration_images} limits the calibration images, and "
            "none are given: leave it out, or give calibration"
        )
    if options.metric is not None and not (has_calibration or has_evaluation):
        raise ValueError(
            f"metric {options.metric.name} needs images: give calibration or evaluation images, or "
            "leave it out"
        )
    return preset


def _ends_in_pooling(model):
    """Whether the output is an embedding: pooled or normalized features."""
    last = model
    while getattr(last, "layers", ()):
        last = last.layers[-1]
    name = type(last).__name__
    return "Pooling" in name or "UnitNormalization" in name


def _check_no_classifier(preset, options, class_names, outputs):
    """``ValueError`` for what only a classifier of two or more classes has."""
    for given, what in (
        (preset.name == "int8_mixed", "int8_mixed, whose budget is top-1 or agreement"),
        (class_names is not None, "class names"),
        (options.softmax, "softmax"),
        (options.finetune, "fine-tuning, which compares class scores"),
    ):
        if given:
            raise ValueError(
                f"{what}: the model is no classifier with one output (batch, classes), classes 2 "
                "or more; leave it out"
            )
    if preset.output == "uint8" and outputs > 1:
        raise ValueError(f"preset {preset.name} supports one output, not {outputs}: use int8")


def _open_float(model, image_size):
    """The ``Classifier`` of a float32 .tflite with a batch of 1 that takes pixels."""
    opened = open_classifier(model, "the float .tflite")
    source, _ = ops.quantization(model)
    types = {part for op in ops.read_ops(model) for part in op.types.split("->")}
    if source[0] != "FLOAT32" or types & _COMPRESSED:
        raise ValueError(
            f"the .tflite takes {source[0].lower()} and has ops of {', '.join(sorted(types))}: "
            "give the float32 .tflite that it was converted from, or the Keras model"
        )
    if opened.resized:
        raise ValueError("the .tflite has a batch larger than 1: export it with a batch of 1")
    if any(opened.mean) or any(std != 1 for std in opened.std):
        raise ValueError(
            f"the .tflite expects pixels normalized by mean {opened.mean} and std {opened.std} "
            "(from its metadata); give a model that takes pixels in [0, 255] and normalizes them"
        )
    if image_size not in (None, opened.height, (opened.height, opened.width)):
        raise ValueError(
            f"image_size {image_size} does not fit the .tflite, which takes {opened.height}x"
            f"{opened.width}: leave it out"
        )
    return opened
