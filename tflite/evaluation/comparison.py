"""Two .tflite files on the same images, in every respect that a report shows."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tflite.evaluation import classifier, delegates, sqnr
from tflite.evaluation.accuracy import Report, verify
from tflite.flatbuffer import ops

SNR_IMAGES = 32


@dataclass(frozen=True)
class Comparison:
    """What is known of two files; ``as_dict()`` fits into JSON."""

    report: Report
    blocks: "tuple[sqnr.Block, ...]"  # () where the files are not of the same graph
    snr_images: int  # that the blocks were measured on
    parts: "tuple[dict[str, int], dict[str, int]]"  # bytes by part, of each file
    delegates: "tuple[tuple, tuple]"  # delegates.Support rows, of each file
    image_sizes: "tuple[tuple[int, int], tuple[int, int]]"  # (height, width) of each file

    def as_dict(self):
        """Numbers, strings, lists and dictionaries only."""
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
            "snr_images": self.snr_images,
            "bytes_by_part": list(self.parts),
            "delegates": [
                [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows]
                for rows in self.delegates
            ],
            "image_sizes": [list(size) for size in self.image_sizes],
        }


def compare(
    first,
    second,
    images,
    labels=None,
    *,
    source="images",
    title="int8",
    first_title="float32",
    second_images=None,
    reference=None,
    runs=50,
):
    """The :class:`Comparison` of two .tflite in bytes on uint8 images (n, height, width, 3).

    Args:
        first: the float32 model, or any to compare with.
        second: the converted one, or any other with as many classes.
        images: as ``load_images`` gives them, of the first file's size.
        labels: (n,) integers in [0, classes), or None.
        source: where the images are from.
        title: what the second file is called.
        first_title: what the first is.
        second_images: the same images in the second file's size, where it has one of its own.
        reference: a float32 .tflite whose tensors the second file's are, where it is not `first`:
            the network after its exact preparation. The blocks are measured against it.
        runs: how many times each file is timed at each number of threads.

    Raises:
        ValueError: what is no image classifier, and images or labels that do not fit.
    """
    report = verify(
        first,
        second,
        images,
        labels,
        source=source,
        title=title,
        first_title=first_title,
        second_images=second_images,
        runs=runs,
    )
    models = [classifier.open_classifier(content) for content in (first, second)]
    signal = models[0] if reference is None else classifier.open_classifier(reference)
    few = np.asarray(images)[_spread(len(images), SNR_IMAGES)]
    measured = (report.float32, report.int8)
    return Comparison(
        report=report,
        blocks=sqnr.sqnr_by_block(signal, models[1], few),
        snr_images=len(few),
        parts=tuple(ops.size_by_part(model.content) for model in models),
        delegates=tuple(
            delegates.support(model.content, fully_accelerated=m.fully_accelerated)
            for model, m in zip(models, measured)
        ),
        image_sizes=tuple((model.height, model.width) for model in models),
    )


def _spread(count, limit):
    return np.arange(min(limit, count)) * count // min(limit, count)
