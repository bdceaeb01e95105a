"""The content of a card: the facts of a model and of the files around it, in JSON types."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_effnet.label_file import read_labels
from keras_effnet.model_card.conversion_file import describe_conversion, read_conversion
from keras_effnet.model_card.evaluation_file import read_evaluation
from keras_effnet.model_card.json_fields import DAMAGED
from keras_effnet.model_card.limits import find_limits
from keras_effnet.model_card.model_file import describe_keras, describe_tflite
from keras_effnet.model_card.run_files import check_labels, has_run, read_run

GENERATOR = "effnet card"  # marks the files of this package
_OF_THE_RUN = ("evaluation.json", "test.json")
_FROM_FLOAT = ("crop", "interpolation", "mean", "std")  # a .tflite contains them, but states none


@dataclass(frozen=True)
class Publication:
    """What no file states: the license, and the data sets' names on the Hugging Face Hub."""

    license: str | None = None
    datasets: tuple[str, ...] = ()


def make_keras_card(
    path: str | os.PathLike[str],
    evaluations: Sequence[str] | None = None,
    publication: Publication = Publication(),
) -> dict:
    """The card of a ``.keras`` file in the work directory of its training.

    Args:
        path: of the model.
        evaluations: JSON files of ``effnet evaluate``; None: those that training wrote.
        publication: license and data sets.

    Raises:
        ValueError: a file is missing, damaged, or belongs to another model.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path)
    run = read_run(folder)
    check_labels(folder, run["data"]["class_names"])
    model = describe_keras(path)
    if evaluations is None:
        beside = (os.path.join(folder, name) for name in _OF_THE_RUN)
        evaluations = [name for name in beside if os.path.isfile(name)]
    evaluations = [read_evaluation(evaluation, model) for evaluation in evaluations]
    return _assemble(model, run, evaluations, None, publication)


def make_tflite_card(
    path: str | os.PathLike[str],
    evaluations: Sequence[str] = (),
    publication: Publication = Publication(),
    workdir: str | None = None,
) -> dict:
    """The card of a ``.tflite`` with the report that ``effnet-tflite`` wrote beside it.

    `workdir` is the work directory of the float model's training; the others and the errors are as
    for :func:`make_keras_card`.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        content = file.read()
    conversion = read_conversion(f"{path}.json", content)
    beside = f"{path}.labels.txt"
    model = describe_tflite(content, path, read_labels(beside) if os.path.isfile(beside) else None)
    if model is None:
        raise ValueError(f"{path} is not a classifier: a card needs one score for each class")
    run = None if workdir is None else _read_float_run(model, conversion, workdir)
    evaluations = [read_evaluation(e, model) for e in evaluations]
    return _assemble(model, run, evaluations, conversion, publication)


def make_conversion_card(
    content: bytes,
    path: str,
    record: Mapping,
    float_model: str = "",
    class_names: Sequence[str] | None = None,
) -> dict | None:
    """The card of a ``.tflite`` that is about to be written; None if it is not a classifier.

    Args:
        content: of the ``.tflite``.
        path: that it is written to.
        record: the report of the conversion.
        float_model: path of the model that was converted; if it is in the work directory of its
            training, the card states data and recipe, too.
        class_names: in the order of the scores; default: those in the file.
    """
    # A conversion may have taken an hour: nothing here makes it fail.
    try:
        model = describe_tflite(content, path, class_names)
        conversion = describe_conversion(record)
    except DAMAGED:  # does not take one image
        return None
    if model is None:
        return None
    folder = os.path.dirname(float_model)
    run = None
    if float_model.endswith(".keras") and has_run(folder):
        with contextlib.suppress(ValueError):  # a file of another program
            run = _read_float_run(model, conversion, folder)
    return _assemble(model, run, [], conversion, Publication())


def _assemble(model, run, evaluations, conversion, publication):
    names = model["class_names"] or (run and run["data"]["class_names"])
    card = {
        "generator": GENERATOR,
        "license": publication.license,
        "datasets": list(publication.datasets),
        "network": run and run["network"],
        "model": {**model, "class_names": names},
        "data": run and {k: v for k, v in run["data"].items() if k != "class_names"},
        "recipe": run and run["recipe"],
        "phases": run and run["phases"],
        "evaluations": evaluations,
        "conversion": conversion,
        "versions": {**(run["versions"] if run else {}), **(conversion or {}).get("versions", {})},
    }
    return {**card, "limits": find_limits(card)}


def _read_float_run(model, conversion, workdir):
    """The run of the float model, whose preprocessing is added to that of the ``.tflite``."""
    run = read_run(workdir)
    path = os.path.join(workdir, os.path.basename(conversion["float_model"] or "model.keras"))
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} does not exist, the model that {model['file']} was converted from: give "
            "another --workdir"
        )
    described = describe_keras(path)
    stated = conversion["float_model_sha256"]
    if described["sha256"] != stated:
        raise ValueError(
            f"{model['file']} was converted from another model than {path}: its report states the "
            f"SHA-256 {stated}, that file has {described['sha256']}. Give another --workdir, or "
            "convert again"
        )
    for name in _FROM_FLOAT:
        if model["input"][name] is None:
            model["input"][name] = described["input"][name]
    return run
