import json

import numpy as np
import pytest

from keras_effnet.evaluation.outcomes import OutcomeRecorder, ScoreKind
from keras_effnet.evaluation.output_files import write_evaluation
from keras_effnet.evaluation.summary import evaluate_outcomes
from keras_effnet.label_file import write_labels
from keras_effnet.provenance import file_sha256

NAMES = ("<cat> | dog", "ünder_score", "rare")
IMAGES = (60, 40, 4)  # of the classes
RECIPE = {"name": "photos", "model": "tiny", "weights": "/home/me/w.h5", "width": 1, "depth": 1}


@pytest.fixture(scope="session")
def network():
    """A Keras classifier of three classes, of 32-pixel images."""
    import keras_effnet

    variant = keras_effnet.scale("efficientnet-lite0", width=0.2, depth=0.2, image_size=32)
    return keras_effnet.create_model(variant, classes=len(NAMES), weights=None)


@pytest.fixture(scope="session")
def trained(network, tmp_path_factory):
    """A work directory as training leaves it, with evaluation.json of its model.keras."""
    folder = tmp_path_factory.mktemp("cards") / "run1"
    folder.mkdir()
    network.save(folder / "model.keras")
    write_labels(folder / "labels.txt", NAMES)
    record = {
        "recipe": {**RECIPE, "loss": "softmax", "epochs": 30},
        "phases": [{"number": 1, "end_step": 9, "image_size": 32}],
        "training_data": "/home/me/photos train",
        "evaluation_data": "/home/me/photos validation",
        "training_images": 1000,
        "images_per_class": [600, 380, 20],
        "skipped_files": ["broken.jpg"],
        "run": {"classes": NAMES},
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
    }
    (folder / "recipe.json").write_text(json.dumps(record))
    write(folder, "evaluation", file_sha256(folder / "model.keras"))
    return folder


def write(folder, stem, sha256):
    """Writes an evaluation of 104 images; those of the last class are wrong."""
    labels = np.repeat(np.arange(3), IMAGES)
    scores = np.full((len(labels), 3), 0.05)
    scores[np.arange(len(labels)), np.where(labels == 2, 0, labels)] = 0.9
    recorder = OutcomeRecorder(ScoreKind(3, "softmax"))
    recorder.add(scores, labels)
    identifiers = [f"{i}.jpg" for i in range(len(labels))]
    evaluation = evaluate_outcomes(recorder.outcomes(), recorder.kind, NAMES, identifiers)
    origin = {
        "model": "tiny",
        "model_sha256": sha256,
        "data": "/home/me/photos validation",
        "unreadable": [],
        "check": None,
        "facts": {"Model": "/home/me/run1/model.keras", "Date": "2026-11-27T07:00:00+00:00"},
    }
    write_evaluation(folder, stem, evaluation, origin)


@pytest.fixture
def run1(trained, tmp_path):
    """A copy of the work directory, for a test that changes it."""
    import shutil

    return shutil.copytree(trained, tmp_path / "run1")
