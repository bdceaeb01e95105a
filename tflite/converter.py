"""Keras model -> evaluated .tflite, in four stages: request, images, quantization, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from keras_effnet.litert import classifier, metadata
from tflite.evaluation import plausibility
from tflite.evaluation.accuracy import EvaluationImages, evaluate
from tflite.evaluation.comparison import compare
from tflite.evaluation.user_metric import CHECK_IMAGES
from tflite.export import export_float32, keras_outputs
from tflite.flatbuffer import rewrite
from tflite.images.loader import ImageSet, fit_labels, load_images
from tflite.quantization import pipeline
from tflite.quantization.calibration import CalibrationImages
from tflite.quantization.mixed_precision import Budget
from tflite.quantization.options import ConversionOptions
from tflite.request import ConversionRequest, check_logits
from tflite.result import Conversion, shown_images

_MANIFEST_FILES = 1000  # at most, in the manifest


def convert(
    model,
    *,
    preset: str | None = None,
    calibration=None,
    evaluation=None,
    class_names=None,
    image_size=None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    log: Callable[[str], None] | None = None,
    **options,
) -> Conversion:
    """Converts a Keras model of images (batch, height, width, 3 or 1) in [0, 255]; returns a
    :class:`~tflite.result.Conversion`.

    Args:
        model: a Keras image classifier that contains its preprocessing, or the bytes of its float32
            .tflite. Outputs may have any number and shape (regression, embedding, segmentation):
            without classes, the errors of the outputs take the place of top-1 and agreement.
        preset: a name of ``tflite.PRESETS``. Default: "int8", or "int8_mixed" with a budget.
        calibration: images for int8 and int16 ranges and for weight rounding: anything that
            ``load_images`` accepts, i.e. a folder, TFRecord shards, ``tfds:NAME``, a manifest, an
            .npz, arrays; at least 16. Of data with splits, the training images are used. Optional
            for "weight_only"; "float32" and "float16" are only compared on them.
        evaluation: images on which the float and the converted model are compared; of data with
            splits, the validation images, else the test images. Default: the calibration images,
            which the report then says. Without any images nothing is measured.
        class_names: of the model's outputs, in order; they are written to the file. Class folders
            are matched with them; without names, sorted folder names are the classes if their
            number fits.
        image_size: pixels per side, or (height, width), of a model without a fixed size.
        max_drop: budget of int8_mixed: how many percentage points of top-1 may be lost on the
            held-out images, which then need labels.
        min_agreement: budget of int8_mixed: fraction of the held-out images that must keep their
            prediction.
        log: called with a line of text per step, e.g. ``print``.
        **options: fields of :class:`~tflite.quantization.options.ConversionOptions`:
            ``calibration_images`` (default 512, or 2,048 for int8_mixed; docs/tflite.md
            says which are learned from and which are held out), ``finetune`` (takes minutes),
            ``search_evaluations`` (models that each search may evaluate; 0: no searches),
            ``cache`` (of calibrations, on disk), ``recipe`` (see
            ``tflite.quantization.plan_file``), ``max_corrupt``, ``softmax`` (appends one to
            logits), ``metric`` (a function of the outputs and labels, see
            ``tflite.evaluation.user_metric``).

    Raises:
        TypeError: an unknown option.
        ValueError: invalid input; raised before anything slow.
        ConversionError: the converted model failed its checks.
        BudgetError: no model meets the budget.
    """
    log = log or (lambda line: None)
    request = ConversionRequest.validated(
        model,
        preset=preset,
        has_calibration=calibration is not None,
        has_evaluation=evaluation is not None,
        budget=Budget(max_drop, min_agreement),
        class_names=class_names,
        image_size=image_size,
        options=ConversionOptions.from_keywords(**options),
    )
    images = ConversionImages.loaded(request, calibration, evaluation, log)
    _check_metric(request, images.evaluation)
    log(f"Converting to a float32 .tflite, {request.height}x{request.width} px")
    float32_model = request.tflite_model
    if float32_model is None:
        float32_model = export_float32(model, image_size=image_size)
        request = request.for_float_model(float32_model)
    float32_model, findings = _checked_output(request, float32_model)
    findings += _pixel_findings(request)
    if request.channels == 1:
        findings += (plausibility.GREY,)
    for finding in findings:
        log(f"  Warning: {finding}")
    quantized = pipeline.run(
        float32_model,
        request.preset,
        images.calibration,
        request.options,
        budget=request.budget,
        log=log,
    )
    return _evaluated(request, images, float32_model, quantized, findings, log)


@dataclass(frozen=True, eq=False)
class ConversionImages:
    """The images of a conversion, loaded and checked."""

    calibration: CalibrationImages | None
    evaluation: EvaluationImages | None
    manifest: dict | None = None  # source, number, SHA-256 and files of the calibration images
    skipped: tuple[str, ...] = ()  # images that could not be decoded

    @classmethod
    def loaded(
        cls, request: ConversionRequest, calibration, evaluation, log: Callable[[str], None]
    ) -> ConversionImages:
        """Loads the images of a request; sources as ``tflite.convert``.

        Raises:
            ValueError: images or labels that cannot be used.
        """
        calibration_images = evaluation_images = manifest = None
        skipped = ()
        if request.image_input is not None:
            log(f"Images: {request.image_input}")
        most = request.options.max_calibration_images(request.preset)
        most_evaluated, is_held_out = None, evaluation is not None
        if calibration is not None and not request.preset.takes_images:
            used = "only for the comparison" if evaluation is None else "not used"
            log(
                f"Preset {request.preset.name} is not calibrated: the calibration images are {used}"
            )
            if evaluation is None:
                evaluation, most_evaluated = calibration, most
            calibration = None
        if calibration is not None:
            log("Loading calibration images")
            image_set = _load(request, calibration, most, log)
            labels = image_set.labels
            calibration_images = CalibrationImages.ordered(image_set.images, labels)
            copies = len(image_set.images) - len(calibration_images)
            if copies:
                log(f"  {copies:,} are copies of other images: each image is used once")
            if labels is None and request.budget and request.budget.max_drop is not None:
                raise ValueError(
                    "max_drop needs labelled calibration images (class folders, shards, a "
                    "manifest, or an .npz with labels): give those, or use min_agreement, which "
                    "needs no labels"
                )
            manifest = _manifest(image_set, calibration_images, request.image_input)
            source = f"{image_set.source}, the calibration images (give others for a fair result)"
            evaluation_images = EvaluationImages(
                image_set.images, labels, source, class_names=image_set.class_names
            )
            skipped = image_set.skipped
        if evaluation is not None:
            log("Loading evaluation images")
            image_set = _load(request, evaluation, most_evaluated, log, is_held_out)
            evaluation_images = EvaluationImages(
                image_set.images,
                image_set.labels,
                image_set.source,
                class_names=image_set.class_names,
            )
            skipped += image_set.skipped
        return cls(calibration_images, evaluation_images, manifest, skipped)


def _load(request, source, limit, log, evaluation=False) -> ImageSet:
    """The images; with labels only if they are labels of the model's classes or for a metric."""
    image_set = load_images(
        source,
        request.image_shape,
        evaluation=evaluation,
        preprocessing=request.image_input and request.image_input.preprocessing,
        class_names=request.class_names,
        limit=limit,
        max_corrupt=request.options.max_corrupt,
        any_labels=not request.is_classifier and request.options.metric is not None,
    )
    if request.is_classifier:
        image_set = fit_labels(image_set, request.classes, request.class_names, log)
    elif request.options.metric is None:
        image_set = dataclasses.replace(image_set, labels=None)
    for line in image_set.notes():
        log(line)
    return image_set


def _manifest(image_set, calibration, image_input):
    return {
        "source": image_set.source,
        "images": len(calibration),
        "sha256": calibration.sha256,
        "files": list(image_set.files[:_MANIFEST_FILES]),
        "preprocessing": "stretched" if image_input is None else str(image_input),
    }


def _check_metric(request, evaluation):
    """Tries the user's metric on a few outputs of the float model, before anything slow."""
    metric = request.options.metric
    if metric is None:
        return
    few = evaluation.images[:CHECK_IMAGES]
    labels = None if evaluation.labels is None else evaluation.labels[:CHECK_IMAGES]
    if request.keras_model is None:
        outputs = classifier.outputs(classifier.open_classifier(request.tflite_model), few)
    else:
        outputs = keras_outputs(request.keras_model, few)
    metric(outputs, labels)


def _checked_output(request, float32_model) -> tuple[bytes, tuple[str, ...]]:
    """(the float model, with a softmax if that is requested; a finding if it ends in logits)."""
    activation = classifier.output_activation(float32_model)
    if not request.options.softmax:
        is_logits = activation == "logits" and request.is_classifier
        return float32_model, (plausibility.LOGITS,) if is_logits else ()
    check_logits(activation)
    return rewrite.append_softmax(float32_model), ()


def _pixel_findings(request):
    if request.keras_model is None:
        return ()
    return plausibility.pixel_range(request.keras_model, request.image_shape)


def _final_findings(request, report, findings):
    """The findings that the evaluation does not contradict, and top-1 at chance."""
    if report is None or report.reference.top1 is None:
        return findings
    top1, count = report.reference.top1, report.images
    if plausibility.is_at_chance(top1, count, request.classes):
        return (*findings, plausibility.chance(top1, count, request.classes))
    facts = (plausibility.LOGITS, plausibility.GREY)
    return tuple(finding for finding in findings if finding in facts)


def _evaluated(request, images, float32_model, quantized, findings, log) -> Conversion:
    """Compares the models and collects everything in a :class:`Conversion`."""
    comparison = report = None
    evaluation = images.evaluation
    if evaluation is not None:
        log(f"Comparing on {len(evaluation.images):,} images")
        if request.preset.name == "float32":
            report = evaluate(float32_model, None, evaluation, metric=request.options.metric)
        else:
            comparison = compare(
                float32_model,
                quantized.tflite_model,
                evaluation,
                names=("float32", request.preset.name),
                sqnr_reference=quantized.exact_model,
                metric=request.options.metric,
            )
            report = comparison.report
    tflite_model = quantized.tflite_model
    if request.channels == 3 and request.is_classifier:  # metadata describe those
        tflite_model = metadata.attach(
            tflite_model,
            labels=request.class_names,
            name=getattr(request.keras_model, "name", ""),
        )
    return Conversion(
        preset=request.preset.name,
        tflite_model=tflite_model,
        float32_model=float32_model,
        exact_model=quantized.exact_model,
        plan=quantized.plan,
        ranges=quantized.ranges,
        quantization_steps=quantized.steps,
        float32_regions=quantized.regions,
        budget=request.budget,
        calibration=images.manifest,
        skipped_images=images.skipped,
        report=report,
        comparison=comparison,
        shown_images=shown_images(report, evaluation and evaluation.images),
        class_names=_class_names(request, evaluation),
        findings=_final_findings(request, report, findings),
    )


def _class_names(request, evaluation):
    """The names of the classes, if the caller or the images name them."""
    if request.class_names is not None or evaluation is None:
        return request.class_names
    names = evaluation.class_names
    return tuple(names) if names is not None and len(names) == request.classes else None
