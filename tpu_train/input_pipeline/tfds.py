"""Training and evaluation images of TensorFlow Datasets."""

from __future__ import annotations

from keras_effnet import tfds
from tpu_train.input_pipeline.image_source import ImageSource
from tpu_train.input_pipeline.tfrecord import of_records, scan

_EVALUATION = ("validation", "test")


def from_tfds(name: str) -> tuple[ImageSource | None, tuple[ImageSource, ImageSource] | None]:
    """(source, None), or (None, (training, evaluation)) of ``tfds:cifar10`` and the like.

    The evaluation split is ``validation``, else ``test``. Raises ``ValueError`` for a data set
    that cannot be trained on; see :func:`keras_effnet.tfds.open_dataset`.
    """
    dataset, split = tfds.open_dataset(name)
    if split is not None:
        raise ValueError(
            f"{name} names a split; training uses train, and validation or test to evaluate: give "
            f"{name.rpartition('/')[0]}"
        )
    splits = ("train", *[split for split in _EVALUATION if split in dataset.paths][:1])
    sources = []
    for split in splits:
        records = scan(
            dataset.files(split), image_key=dataset.image_key, label_key=dataset.label_key
        )
        lowest, highest = records.labels.min(), records.labels.max()
        if lowest < 0 or highest >= len(dataset.class_names):
            raise ValueError(
                f"{name} {split} has labels from {lowest} to {highest}, but "
                f"{len(dataset.class_names)} classes"
            )
        sources.append(
            of_records(f"{name} {split}", dataset.class_names, records, dataset.image_key, 0)
        )
    return (None, tuple(sources)) if len(sources) == 2 else (sources[0], None)
