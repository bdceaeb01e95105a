import sys

import numpy as np
import pytest

from keras_effnet.datasets.dataset import open_dataset


def test_tensorflow_datasets_are_read_by_split(tmp_path):
    datasets = pytest.importorskip("tensorflow_datasets")
    datasets.core.add_data_dir(str(tmp_path))

    def make(known_as, image, configs=()):
        class Builder(datasets.core.GeneratorBasedBuilder):
            __module__ = known_as  # else its files are expected in this project
            name = known_as
            VERSION = datasets.core.Version("1.0.0")
            BUILDER_CONFIGS = [  # noqa: RUF012
                datasets.core.BuilderConfig(name=c, version="1.0.0") for c in configs
            ]

            def _info(self):
                features = {
                    "image": image,
                    "label": datasets.features.ClassLabel(names=["red", "green"]),
                }
                return datasets.core.DatasetInfo(
                    builder=self,
                    features=datasets.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, manager):
                return {"train": self._examples(range(6)), "test": self._examples([6, 7])}

            def _examples(self, numbers):
                dtype = image.np_dtype
                for i in numbers:
                    yield i, {"image": np.full((9, 12, 3), i, dtype), "label": i % 2}

            def _generate_examples(self):
                raise NotImplementedError

        Builder(data_dir=str(tmp_path)).download_and_prepare()
        return Builder

    image = datasets.features.Image(shape=(None, None, 3))
    keep = [make("phone_tints", image), make("phone_sizes", image, configs=["small", "big"])]
    dataset = open_dataset("tfds:phone_tints")
    assert set(dataset.splits) == {"train", "test"}
    (images,) = dataset.open("train")
    assert (images.name, images.classes) == ("tfds:phone_tints/train", ("red", "green"))
    numbers = [int(image.pixels[0, 0, 0]) for image in images]
    assert sorted(numbers) == list(range(6))
    assert [images.labels_of(i) for i in range(6)] == [(number % 2,) for number in numbers]
    assert images.where(2).endswith("phone_tints-train.tfrecord-00000-of-00001 record 2")

    dataset = open_dataset("tfds:phone_tints/test")
    assert dataset.splits == ("test",)
    (images,) = dataset.open("test")
    assert images.name == "tfds:phone_tints/test"
    assert sorted(int(image.pixels[0, 0, 0]) for image in images) == [6, 7]
    for name in ("phone_sizes", "phone_sizes/small"):
        assert len(open_dataset(f"tfds:{name}").open("train")[0]) == 6
    assert open_dataset("tfds:phone_sizes/small/test").splits == ("test",)

    def fails(match, name):
        with pytest.raises(ValueError, match=match):
            open_dataset(f"tfds:{name}")

    fails("has no split 'val', but t.*, t", "phone_tints/val")
    fails("has no data set 'colour_of_money'", "colour_of_money")
    fails("has no data set 'colour_of_money'", "colour_of_money/test")
    fails("has no data set 'mnst'. Did you mean 'mnist'", "mnst")
    fails("cannot open 'phone_tints:9.9.9': .*9.9.9", "phone_tints:9.9.9")
    fails(r"'train\[:10%\]' is a part of a split: give a whole one", "phone_tints/train[:10%]")
    deep = datasets.features.Image(shape=(None, None, 3), dtype=np.uint16)
    plain = datasets.features.Tensor(shape=(9, 12, 3), dtype=np.uint8)
    keep += [make("phone_depths", deep), make("phone_tensors", plain)]
    fails("8-bit images with one class each: it has image, label", "phone_depths")
    fails("is not a data set of 8-bit images", "phone_tensors")


def test_missing_tensorflow_datasets_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="needs tensorflow_datasets: pip install tensorflow-data"):
        open_dataset("tfds:cifar10")
