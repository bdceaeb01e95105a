"""Compares two .tflite models: everything that a report shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import classifier, ops
from tflite.evaluation import delegates, sqnr
from tflite.evaluation.accuracy import NAMES, RUNS, EvaluationImages, EvaluationReport, evaluate
from tflite.evaluation.user_metric import UserMetric
from tflite.images.loader import spread

SQNR_IMAGES = 32


@dataclass(frozen=True)
class Comparison:
    """Comparison of a reference and a candidate; ``as_dict()`` returns JSON types."""

    report: EvaluationReport
    blocks: tuple[sqnr.BlockSQNR, ...]  # () for files of different graphs
    sqnr_images: int  # number of images that SQNR was measured on
    size_by_part: tuple[dict[str, int], dict[str, int]]  # {part: bytes} of each file
    delegates: tuple[tuple[delegates.Support, ...], tuple[delegates.Support, ...]]  # of each file
    image_sizes: tuple[tuple[int, int], tuple[int, int]]  # (height, width) of each file

    def as_dict(self) -> dict:
        """The comparison in JSON types."""
        return {
            "report": self.report.as_dict(),
            "blocks": [
                {
                    "name": block.name,
                    "sqnr_db": block.sqnr_db,
                    "worst": dataclasses.asdict(block.worst),
                    "tensors": [dataclasses.asdict(tensor) for tensor in block.tensors],
                }
                for block in self.blocks
            ],
            "sqnr_images": self.sqnr_images,
            "size_by_part": list(self.size_by_part),
            "delegates": [
                [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows]
                for rows in self.delegates
            ],
            "image_sizes": [list(size) for size in self.image_sizes],
        }


def compare(
    reference: bytes,
    candidate: bytes,
    images: EvaluationImages,
    *,
    names: tuple[str, str] = NAMES,
    sqnr_reference: bytes | None = None,
    runs: int = RUNS,
    metric: UserMetric | None = None,
) -> Comparison:
    """The :class:`Comparison` of two .tflite models.

    Args:
        reference: usually the float32 model.
        candidate: usually the converted model; it must have as many classes.
        images: to evaluate on.
        names: of the two models.
        sqnr_reference: a float32 .tflite with the tensors of the candidate, for the SQNR of blocks.
            Default: `reference`. A converter that folds the normalization changes the tensors.
        runs: timed runs of each model and number of threads.
        metric: the user's own metric.

    Raises:
        ValueError: not an image classifier, or images or labels that do not fit the models.
    """
    report = evaluate(reference, candidate, images, names=names, runs=runs, metric=metric)
    models = [classifier.open_classifier(content) for content in (reference, candidate)]
    signal = models[0] if sqnr_reference is None else classifier.open_classifier(sqnr_reference)
    few = np.asarray(images.images)[spread(report.images, SQNR_IMAGES)]
    return Comparison(
        report=report,
        blocks=sqnr.sqnr_by_block(signal, models[1], few),
        sqnr_images=len(few),
        size_by_part=tuple(ops.size_by_part(model.tflite_model) for model in models),
        delegates=tuple(
            delegates.support(model.tflite_model, fully_accelerated=metrics.fully_accelerated)
            for model, metrics in zip(models, (report.reference, report.candidate))
        ),
        image_sizes=tuple((model.height, model.width) for model in models),
    )
