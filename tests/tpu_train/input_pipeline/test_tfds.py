import sys

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.data_loading import open_data


def opened(data):
    return open_data(data, holdout=0.5, seed=0)


def test_train_and_test_splits_are_training_and_evaluation(tmp_path):
    datasets = pytest.importorskip("tensorflow_datasets")
    datasets.core.add_data_dir(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 12, 3)).astype(np.uint8)

    class Colours(datasets.core.GeneratorBasedBuilder):
        __module__ = "colours"  # else its files are expected in this project
        VERSION = datasets.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": datasets.features.Image(shape=(None, None, 3)),
                "label": datasets.features.ClassLabel(names=["red", "green"]),
            }
            return datasets.core.DatasetInfo(
                builder=self,
                features=datasets.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, manager):
            return {"train": self._examples(range(6)), "test": self._examples(range(6, 8))}

        def _examples(self, numbers):
            for i in numbers:
                yield i, {"image": pixels[i], "label": int(pixels[i].sum()) % 2}

        def _generate_examples(self):
            raise NotImplementedError

    Colours(data_dir=str(tmp_path)).download_and_prepare()
    training, evaluation = opened("tfds:colours")
    assert training.classes == ("red", "green")
    assert (training.examples, evaluation.examples) == (6, 2)
    for source in (training, evaluation):
        for i in range(source.examples):
            decoded = source.crop(source.read(tf.constant(i)), [0, 0, 9, 12]).numpy()
            assert decoded.sum() % 2 == source.labels[i]
            assert decoded.tobytes() in {image.tobytes() for image in pixels}
    with pytest.raises(ValueError, match="has no data set 'colour_of_money'"):
        opened("tfds:colour_of_money")
    with pytest.raises(ValueError, match=r"names a split; .* give tfds:colours$"):
        opened("tfds:colours/test")


def test_a_package_that_a_data_set_needs_is_named(monkeypatch):
    datasets = pytest.importorskip("tensorflow_datasets")

    def lacking(builder):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets.core.DatasetBuilder, "download_and_prepare", lacking)
    with pytest.raises(ValueError, match="tfds:mnist also needs scipy: pip install scipy"):
        opened("tfds:mnist")


def test_missing_tensorflow_datasets_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="needs tensorflow_datasets: pip install tensorflow-data"):
        opened("tfds:cifar10")
