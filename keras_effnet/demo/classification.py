"""What a page shows of one photo: predictions of two models with their latency, and a heat map."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_effnet.evaluation.outcomes import ScoreKind
from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.image_classifier import of_keras_model, open_classifier, open_model
from keras_effnet.image_decoding import load_image
from keras_effnet.labels import class_names_for
from keras_effnet.model_input import ImageInput
from keras_effnet.saliency import grad_cam, overlay

TOP = 5
_TIMED_RUNS = 5


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that classifies one image at a time."""

    name: str
    image_input: ImageInput
    scores: Callable[[np.ndarray], np.ndarray]  # uint8 (height, width, channels) -> (classes,)
    kind_of: Callable[[np.ndarray], ScoreKind]


@dataclass(frozen=True, eq=False)
class Demo:
    """The models of a page; `converted` is the .tflite."""

    keras_model: object
    class_names: tuple[str, ...]
    original: Predictor
    converted: Predictor | None


@dataclass(frozen=True)
class Prediction:
    """The best classes of one model, best first."""

    model: str
    best: dict[str, float]  # {class name: probability}, TOP of them
    milliseconds: float  # median of one image


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that the page shows of one photo."""

    prepared: np.ndarray  # uint8 (height, width, 3): the image as the network sees it
    heat: np.ndarray | None  # uint8 (height, width, 3): Grad-CAM of the best class
    predictions: tuple[Prediction, ...]  # of the Keras model, then of the .tflite
    note: str = ""  # why there is no heat map


def open_demo(
    model: str,
    weights: str | None = None,
    *,
    tflite: str | None = None,
    labels: str | None = None,
    label_format: str | None = None,
) -> Demo:
    """The models of a page, by path or name as in ``effnet predict``.

    Raises ``ValueError`` for a model that is not an image classifier, and for a .tflite with
    another number of classes.
    """
    converted = None if tflite is None else open_classifier(tflite, labels=labels)
    keras_model, names = open_model(model, weights, labels)
    classifier = of_keras_model(keras_model, names)
    stated = classifier.image_input

    def keras_scores(image):
        pixels = stated.for_model(image)[None]
        return np.asarray(keras_model.predict_on_batch(pixels), np.float32)[0]

    names = tuple(names or class_names_for(classifier.classes, label_format or "names"))
    original = Predictor("Keras, float32", stated, keras_scores, classifier.kind_of)
    if converted is None:
        return Demo(keras_model, names, original, None)
    if converted.classes != classifier.classes:
        raise ValueError(
            f"--tflite={tflite} has {converted.classes} classes and --model={model} has "
            f"{classifier.classes}: give a .tflite that was converted from this model"
        )
    side = converted.image_input
    same_crop = replace(stated.preprocessing, image_size=side.preprocessing.image_size)
    litert = Predictor(
        f"LiteRT, {converted.name}",
        replace(side, preprocessing=same_crop),
        lambda image: converted.scores(image[None])[0],
        converted.kind_of,
    )
    return Demo(keras_model, names, original, litert)


def explain_photo(demo: Demo, path: str) -> Explanation:
    """The :class:`Explanation` of an image file; ``ValueError`` if it cannot be decoded."""
    photo = load_image(path)
    prepared = demo.original.image_input.prepare(photo)
    predictors = (demo.original, *([demo.converted] if demo.converted else []))
    predictions = [_predict(demo, predictor, photo) for predictor in predictors]
    shown = prepared.repeat(3 // prepared.shape[-1], -1)  # grey as RGB
    try:
        heat = grad_cam(demo.keras_model, demo.original.image_input.for_model(prepared))
    except ValueError as error:  # a network that Grad-CAM cannot explain still predicts
        return Explanation(shown, None, tuple(predictions), f"No Grad-CAM: {error}")
    return Explanation(shown, overlay(shown, heat), tuple(predictions))


def _predict(demo, predictor, photo):
    image = predictor.image_input.prepare(photo)
    compute = functools.partial(predictor.scores, image)
    scores = compute()  # the first run may compile
    seconds = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    kind = predictor.kind_of(scores[None])
    logs = log_probabilities(scores[None], kind.activation, output_scale=kind.output_scale)[0]
    probabilities = np.exp(logs)
    if kind.classes == 1:
        probabilities = np.array([1 - probabilities[0], probabilities[0]])
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    named = {_unique(demo.class_names, int(i)): float(probabilities[i]) for i in best}
    return Prediction(predictor.name, named, 1e3 * statistics.median(seconds))


def _unique(names, index):
    """The name of a class, with its number if another class has the same name."""
    name = names[index]
    return name if names.count(name) == 1 else f"{name} ({index})"
