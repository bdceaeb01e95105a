"""Data sets of TensorFlow Datasets, by name; the one importer of tensorflow_datasets."""

import os

from tpu_train.input_pipeline.tfrecord import of_records, scan

_EVALUATION = ("validation", "test")


def from_tfds(name):
    """(source, None), or (None, (training, evaluation)) of ``cifar10`` and the like.

    It is downloaded and prepared where tensorflow_datasets keeps its data (``TFDS_DATA_DIR``), and
    its TFRecord files are read where they are. The evaluation set is ``validation``, else ``test``.
    Raises ``ValueError`` for a name that it does not know, for what is no set of images with one
    class each, and for other formats than TFRecord.
    """
    builder = _find(name)
    image_key, label_key = builder.info.supervised_keys
    try:
        builder.download_and_prepare()
    except ImportError as error:  # its own lazy imports: importlib_resources, scipy, ...
        raise ValueError(
            f"tfds:{name} needs {error.name}, too: pip install {error.name}"
        ) from error
    classes = builder.info.features[label_key].names  # some are known only now
    splits, form = builder.info.splits, builder.info.file_format.value
    if form != "tfrecord":
        raise ValueError(
            f"tfds:{name} is kept as {form}; keep it as tfrecord: tensorflow_datasets.builder("
            f"{name!r}, file_format='tfrecord').download_and_prepare()"
        )
    if "train" not in splits:
        raise ValueError(f"tfds:{name} has no split 'train', but {', '.join(splits)}")
    sources = []
    for part in ("train", *[part for part in _EVALUATION if part in splits][:1]):
        paths = [os.fspath(path) for path in splits[part].filepaths]
        records = scan(paths, image_key=image_key, label_key=label_key)
        lowest, highest = records.labels.min(), records.labels.max()
        if lowest < 0 or highest >= len(classes):
            raise ValueError(
                f"tfds:{name} {part} has labels from {lowest} to {highest}, but {len(classes)} "
                "classes"
            )
        sources.append(of_records(f"tfds:{name} {part}", classes, records, image_key, 0, most=1))
    return (None, tuple(sources)) if len(sources) == 2 else (sources[0], None)


def _find(name):
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            f"data 'tfds:{name}' needs tensorflow_datasets: pip install tensorflow-datasets"
        ) from error
    try:
        builder = tensorflow_datasets.builder(name)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        raise ValueError(f"tensorflow_datasets knows no data set {name!r}") from error
    keys, features = builder.info.supervised_keys, builder.info.features
    if not keys or len(keys) != 2 or not hasattr(features[keys[1]], "names"):
        raise ValueError(
            f"tfds:{name} is no set of images with one class each: it has {', '.join(features)}, "
            f"supervised keys {keys}"
        )
    return builder
