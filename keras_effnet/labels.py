"""What the outputs of a classifier are called, and which of 21,843 or 1,001 outputs are ImageNet's
1,000 classes. No Keras.
"""

import functools
import pathlib

import numpy as np

_TABLE = pathlib.Path(__file__).with_name("imagenet_classes.tsv")


@functools.cache
def _imagenet():
    lines = _TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return tuple(tuple(line.split("\t")) for line in lines)


def imagenet_classes():
    """The names of ImageNet-1k's 1,000 classes, in the classifier's order.

    >>> imagenet_classes()[207]
    'golden retriever'
    """
    return tuple(names for _, _, names in _imagenet())


def label_map(classes):
    """Where a classifier of so many outputs has ImageNet-1k's 1,000 classes: their indices, -1 for
    a class that it does not know; None where no map is known.

    1,001 outputs have a background class in front (TensorFlow's convention); 21,843 are
    ImageNet-21k as Google trained on it, which lacks one class of the 1,000: teddy bear (850).

    >>> label_map(1001)[:3]
    [1, 2, 3]
    >>> label_map(21843).index(-1)
    850
    """
    if classes == 1001:
        return list(range(1, 1001))
    if classes == 21843:
        return [int(index) for _, index, _ in _imagenet()]
    return None


def decode_predictions(scores, top=5, class_names=None):
    """For each row of scores (n, classes) its `top` best, best first: [(index, name, score), ...].

    `class_names` default to ImageNet-1k's for 1,000 classes, and to the numbers for other counts.
    Raises ``ValueError`` when their number is not that of the scores.

    >>> decode_predictions([[0.1, 0.7, 0.2]], top=2, class_names=["cat", "dog", "owl"])
    [[(1, 'dog', 0.7), (2, 'owl', 0.2)]]
    """
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores have shape {scores.shape}: give (images, classes)")
    classes = scores.shape[1]
    if class_names is None:
        class_names = imagenet_classes() if classes == 1000 else [str(i) for i in range(classes)]
    if len(class_names) != classes:
        raise ValueError(
            f"{len(class_names)} class names for {classes} classes: give one name a class, in the "
            "order of training (labels.txt beside a model trained here)"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(int(i), class_names[i], float(row[i])) for i in b] for row, b in zip(scores, best)]
