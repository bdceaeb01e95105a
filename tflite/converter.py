"""Keras model -> checked .tflite: export, preparation, calibration, remedies, plan, quantization
and verification in one call.
"""

import hashlib
from dataclasses import dataclass

from keras_effnet.image_preprocessing import preprocessing
from tflite.evaluation.accuracy import EvaluationImages, evaluate
from tflite.evaluation.classifier import open_classifier
from tflite.evaluation.comparison import compare
from tflite.export import export_float32, image_shape
from tflite.flatbuffer import metadata, ops
from tflite.images.loader import load_images
from tflite.presets import find_preset
from tflite.quantization import equalization, pipeline, range_search
from tflite.quantization.calibration import calibrate, in_order, require_images, require_variety
from tflite.quantization.mixed_precision import Budget, within_budget
from tflite.quantization.quantizer import QuantPlan, make_plan, quantize
from tflite.quantization.range_estimation import RULES
from tflite.result import Conversion

CALIBRATION_IMAGES = 512
BUDGET_IMAGES = 2048
# Of int8_mixed, if no budget is given: 99 %, and the standard error of 1,536 held-out images.
MIN_AGREEMENT = 0.9925
_SEARCH_SECONDS = 10  # of each search
_LISTED = 1000  # files of a manifest


def convert(
    model,
    *,
    preset=None,
    calibration=None,
    verification=None,
    class_names=None,
    image_size=None,
    calibration_images=None,
    max_drop=None,
    min_agreement=None,
    tune=None,
    search_seconds=_SEARCH_SECONDS,
    max_corrupt=10,
    progress=None,
):
    """A :class:`Conversion` of a Keras classifier of images (batch, height, width, 3) in [0, 255].

    Args:
        model: a Keras image classifier whose preprocessing is inside; or the bytes of its float32
            .tflite.
        preset: a name of ``tflite.PRESETS``. Default: "int8", "int8_mixed" where a budget is given.
        calibration: images that int8 and int16 are measured on, and weights rounded by (of
            "weight_only", too, if given), whatever ``load_images`` takes: a folder, TFRecord
            shards, ``tfds:NAME``, an .npz, arrays; 16 at least.
        verification: images that the float and the converted model are compared on. Default: the
            calibration images, and the report says so; without those nothing is measured.
        class_names: of the model's outputs, in order; they go into the file. Class folders are
            looked up among them; without, sorted folder names count as the classes if there are as
            many.
        image_size: pixels a side, or (height, width), of a model whose own size is None.
        calibration_images: at most so many, spread evenly over all. Default: 512, and 2,048 for
            int8_mixed. Half of them, 512 at most, are learned from; the others are held out.
        max_drop: of int8_mixed: percentage points of top-1 that may be lost, on the held-out
            images, which need labels then.
        min_agreement: of int8_mixed: share of the held-out images that must keep their answer.
        tune: whether to fine-tune against the float model. Default: for "int8_strict" alone. Takes
            minutes.
        search_seconds: of each search.
        max_corrupt: so many images that cannot be decoded are skipped in each set.
        progress: called with a line of text before every step, e.g. ``print``.

    Raises:
        ValueError: bad input, before anything slow.
        ConversionError: a product that is not the model; ``BudgetError``: an impossible budget.
    """
    say = progress or (lambda line: None)
    budget = Budget(max_drop, min_agreement)
    chosen = _chosen_preset(preset, budget, calibration)
    if chosen.name == "int8_mixed" and budget == Budget():
        budget = Budget(min_agreement=MIN_AGREEMENT)
    given = bytes(model) if isinstance(model, (bytes, bytearray)) else None
    if given is None:
        height, width, _ = image_shape(model, image_size)
        classes = model.outputs[0].shape[-1]
    else:
        opened = _open_float(given, image_size)
        height, width, classes = opened.height, opened.width, opened.classes
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for a model with {classes} outputs")

    try:
        input_spec = preprocessing(model) if given is None else None
    except ValueError:
        input_spec = None  # of others' making: a phone's stretch
    if input_spec is not None:
        say(f"Images: {input_spec}")

    def load(source, limit=None):
        found = load_images(
            source,
            (height, width),
            preprocessing=input_spec,
            class_names=class_names,
            limit=limit,
            max_corrupt=max_corrupt,
        )
        labels = _labels(found, class_names, classes, say)
        say(f"  {found.source}")
        for path in found.skipped:
            say(f"  skipped, cannot be decoded: {path}")
        return found, labels

    sets, labels = [], None
    if calibration is not None:
        say("Loading calibration images")
        if calibration_images is None:
            mixed = chosen.name == "int8_mixed"
            calibration_images = BUDGET_IMAGES if mixed else CALIBRATION_IMAGES
        found, labels = load(calibration, calibration_images)
        require_images(len(found.images))
        require_variety(found.images)
        if budget.max_drop is not None and labels is None:
            raise ValueError(
                "max_drop needs labelled calibration images (class folders, shards, or an "
                ".npz with labels): give those, or min_agreement, which needs none"
            )
        sets.append((found, labels))
    if verification is not None:
        say("Loading verification images")
        sets.append(load(verification))

    say(f"Converting to a float32 .tflite, {height}x{width} px")
    float_content = given if given is not None else export_float32(model, image_size=image_size)
    made = _Made(float_content, make_plan(ops.read_ops(float_content), chosen))
    if calibration is not None:
        made = _calibrated(made, chosen, sets[0], budget, tune, search_seconds, say)
    else:
        made.content = quantize(float_content, None, made.plan)
    comparison = measured = found = None
    if sets:
        found, labels = sets[-1]
        source = found.source
        if verification is None:
            source += ", the calibration images: give other ones for a figure to rely on"
        say(f"Comparing on {len(found.images):,} images")
        data = EvaluationImages(found.images, labels, source)
        if chosen.name == "float32":
            measured = evaluate(float_content, None, data)
        else:
            comparison = compare(
                float_content,
                made.content,
                data,
                names=("float32", chosen.name),
                sqnr_reference=made.prepared,
            )
            measured = comparison.report
    return Conversion(
        preset=chosen.name,
        tflite=metadata.attach(made.content, labels=class_names, name=getattr(model, "name", "")),
        float32_model=float_content,
        plan=made.plan,
        ranges=made.ranges,
        report=measured,
        skipped=tuple(path for found, _ in sets for path in found.skipped),
        remedies=tuple(made.rows),
        islands=tuple(made.islands),
        calibration=_manifest(sets[0][0], input_spec) if calibration is not None else None,
        budget=budget if chosen.name == "int8_mixed" else None,
        comparison=comparison,
        images=None if found is None else found.images,
        class_names=_names(class_names, found, classes),
        prepared=made.prepared,
    )


def _names(class_names, found, classes):
    """Of the classes, where somebody has said them."""
    if class_names is None and found is not None and found.class_names is not None:
        class_names = found.class_names if len(found.class_names) == classes else None
    return None if class_names is None else tuple(class_names)


@dataclass
class _Made:
    prepared: bytes
    plan: QuantPlan
    content: bytes = b""
    ranges: "dict | None" = None
    rows: tuple = ()
    islands: tuple = ()


def _open_float(content, image_size):
    """The ``Classifier`` of a float32 .tflite of batch 1 that takes pixels."""
    opened = open_classifier(content, "the float .tflite")
    source, _ = ops.quantization(content)
    types = {op.dtype for op in ops.read_ops(content)}
    if source[0] != "FLOAT32" or types & {"INT8", "UINT8", "INT16", "FLOAT16"}:
        raise ValueError(
            f"the .tflite takes {source[0]} and holds {', '.join(sorted(types))}: give the float32 "
            "one that it was made of, or the Keras model"
        )
    if opened.resized:
        raise ValueError("the .tflite takes several images at a time: export it with a batch of 1")
    if any(opened.mean) or any(std != 1 for std in opened.std):
        raise ValueError(
            f"the .tflite takes pixels normalised by mean {opened.mean} and std {opened.std}, as "
            "its metadata says; give one that takes pixels in [0, 255] and normalises them itself"
        )
    if image_size not in (None, opened.height, (opened.height, opened.width)):
        raise ValueError(
            f"image_size {image_size} does not fit the .tflite, which takes {opened.height}x"
            f"{opened.width}: leave it out"
        )
    return opened


def _chosen_preset(name, budget, calibration):
    asked = budget != Budget()
    chosen = find_preset(name or ("int8_mixed" if asked else "int8"))
    if asked and chosen.name != "int8_mixed":
        raise ValueError(
            f"preset {chosen.name} takes no budget ({budget}): leave it out, or take int8_mixed, "
            "which keeps in float32 what the budget asks for"
        )
    if chosen.calibrated and calibration is None:
        raise ValueError(
            f"preset {chosen.name} needs calibration images: a folder, an .npz or an array of 100 "
            "to 500 images like those of later use"
        )
    if not chosen.takes_images and calibration is not None:
        raise ValueError(
            f"preset {chosen.name} takes no calibration images; leave them out (verification takes "
            "images to compare on), or take int8"
        )
    return chosen


def _labels(found, class_names, classes, say):
    labels = found.labels
    folders = found.class_names
    if folders is not None and class_names is None and len(folders) != classes:
        say(f"  {len(folders)} classes of images, {classes} of the model: top-1 is not measured")
        labels = None
    if labels is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{found.source}: labels run from {labels.min()} to {labels.max()}, and the model "
            f"has {classes} classes (0 to {classes - 1})"
        )
    return labels


def _calibrated(made, preset, images_and_labels, budget, tune, seconds, say):
    """The preset's file by way of the remedies, and of float islands where a budget asks."""
    found, labels = images_and_labels
    order = in_order(found.images)
    images = found.images[order]
    if not preset.calibrated:
        state = pipeline.apply_to_weights(made.prepared, images, say=say)
        product = quantize(state.content, None, made.plan)
        return _Made(made.prepared, made.plan, product, None, tuple(state.rows))
    # Hardware for int8 alone pads with zeros alone; and ai-edge-quantizer 0.10 cannot join 16-bit
    # constants.
    simple = preset.name == "int8_strict" or preset.activations == "int16"
    content = equalization.fold_normalization(
        made.prepared, border="subtract" if simple else "constant", images=images[:8]
    )

    def plan_of(content, rule):
        return make_plan(
            ops.read_ops(content),
            preset,
            calibration_images=len(images),
            range_rule=RULES[rule],
        )

    if preset.activations == "int16":  # 65,536 codes: min-max does, and weights decide
        state = pipeline.apply_to_weights(content, images, say=say)
        ranges = calibrate(state.content, images)
        plan = plan_of(state.content, "minmax")
        product = quantize(state.content, ranges, plan)
        return _Made(content, plan, product, ranges, tuple(state.rows))

    tune = preset.name == "int8_strict" if tune is None else tune
    state, judge = pipeline.apply(
        content, images, plan_of, quantize, tune=tune, seconds=seconds, say=say
    )
    plan = plan_of(state.content, state.rule)
    islands = ()
    if preset.name == "int8_mixed":
        say(f"Searching what has to stay float32: {budget}")
        _, held = range_search.held_out(len(images))
        unseen = range_search.Objective(content, images[held])
        labels = labels[order[held]] if budget.max_drop is not None else None
        plan, islands = within_budget(budget, unseen, labels, state, plan, judge, seconds, say)
    content = state.content_for(plan) if islands else state.content
    product = quantize(content, state.ranges, plan)
    return _Made(state.exact, plan, product, state.ranges, tuple(state.rows), islands)


def _manifest(found, input_spec):
    digest = hashlib.sha256()
    for image in found.images[in_order(found.images)]:
        digest.update(image.tobytes())
    return {
        "source": found.source,
        "images": len(found.images),
        "sha256": digest.hexdigest(),  # of the prepared pixels, in the order of their own hashes
        "files": list(found.files[:_LISTED]),
        "preprocessing": "stretched" if input_spec is None else str(input_spec),
    }
