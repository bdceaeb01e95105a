"""Evaluates the model of a round as ``effnet evaluate`` does, and writes the same files."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable

from keras_effnet.datasets.labeled_images import LabeledImages
from keras_effnet.evaluation.class_matching import match_classes
from keras_effnet.evaluation.output_files import write_evaluation
from keras_effnet.evaluation.scoring import score_images
from keras_effnet.evaluation.summary import evaluate_outcomes
from keras_effnet.image_classifier import open_classifier
from keras_effnet.provenance import file_sha256, package_versions

_STEM = "evaluation"


def evaluate_model(
    model: str,
    images: LabeledImages,
    folder: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """The metrics of a ``.keras`` file on labeled images, as ``evaluation.json`` has them.

    Writes ``evaluation.html``, ``evaluation.json`` and their tables into `folder`. If it has them
    for this very model and data, they are read instead. The model's class names are in
    ``labels.txt`` beside it. `progress` is called with the number of images done and of all.
    """
    path, digest = os.path.join(folder, f"{_STEM}.json"), file_sha256(model)
    names = os.fsencode("\n".join(images.where(i) for i in range(len(images))))
    data = hashlib.sha256(names + images.labels.tobytes()).hexdigest()
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        if (record["model_sha256"], record.get("data_sha256")) == (digest, data):
            return record["metrics"]
    classifier = open_classifier(model)
    match = match_classes(images.classes, classifier.classes, classifier.class_names)
    scored = score_images(classifier, images, match.outputs, progress=progress)
    identifiers = [images.where(int(i)) for i in scored.indices]
    evaluation = evaluate_outcomes(scored.outcomes, scored.kind, match.names, identifiers)
    origin = {
        "model": classifier.name,
        "model_sha256": digest,
        "data": images.name,
        "data_sha256": data,
        "unreadable": list(scored.unreadable),
        "check": None,
        "facts": {
            "Model": model,
            "Data": images.name,
            "Preprocessing": str(classifier.image_input),
            "Classes": match.note,
            "Date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "Versions": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
        },
    }
    write_evaluation(
        folder, _STEM, evaluation, origin, lambda row: images.pixels(int(scored.indices[row]))
    )
    return evaluation.as_dict()["metrics"]
