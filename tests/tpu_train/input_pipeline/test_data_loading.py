import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.batches import training_batches
from tpu_train.input_pipeline.data_loading import from_arrays, from_folder, open_data, split
from tpu_train.recipes.phases import make_phases


@pytest.fixture
def photos(tmp_path):
    """Two classes of JPEG and PNG files, 4 and 3 images, of different sizes."""
    random = np.random.default_rng(0)
    for name, count in (("cat", 4), ("dog", 3)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = random.integers(0, 255, (40 + i, 50, 3)).astype(np.uint8)
            encode, ending = (tf.io.encode_png, "png") if i == 1 else (tf.io.encode_jpeg, "JPEG")
            tf.io.write_file(str(tmp_path / name / f"{i}.{ending}"), encode(pixels))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_s_images_come_decoded(photos, tiny_recipe):
    source = from_folder(photos)
    assert source.classes == ("cat", "dog")
    assert source.examples == 7
    phase = make_phases(tiny_recipe, source.examples)[0]
    data = training_batches(source, tiny_recipe, phase, first_step=0, end_step=1, replicas=1)
    assert next(iter(data))["image"].shape == (8, 32, 32, 3)


def test_a_crop_of_a_jpeg_is_the_crop_of_its_pixels(photos):
    source = from_folder(photos)
    window = tf.constant([3, 5, 20, 30])
    for i in range(source.examples):
        stored = source.read(tf.constant(i))
        whole = tf.io.decode_image(stored, channels=3).numpy()
        np.testing.assert_array_equal(source.shape(stored), whole.shape)
        crop = source.crop(stored, window).numpy().astype(int)
        assert np.abs(crop - whole[3:23, 5:35]).max() <= 8  # chroma at the crop's border


def test_a_corrupt_file_is_named_skipped_and_counted(photos):
    bad = photos / "dog" / "9.jpg"
    bad.write_bytes(b"\xff\xd8\xff broken")
    source = from_folder(photos)
    assert source.skipped == (str(bad),)
    assert source.examples == 7
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded.*9\.jpg"):
        from_folder(photos, max_corrupt=0)


def test_a_folder_without_images_or_with_one_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no images: it needs one folder a class"):
        from_folder(tmp_path)
    (tmp_path / "only").mkdir()
    pixel = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8))
    tf.io.write_file(str(tmp_path / "only" / "a.png"), pixel)
    with pytest.raises(ValueError, match=r"one class only \(only\)"):
        from_folder(tmp_path)


def test_a_split_holds_out_a_share_of_every_class_and_forgets_nothing(source):
    training, evaluation = split(source, 0.25, seed=3)
    assert np.bincount(evaluation.labels, minlength=4).tolist() == [2, 2, 2, 2]
    assert training.examples + evaluation.examples == source.examples
    images = [
        s.read(tf.constant(i)).numpy().tobytes()
        for s in (training, evaluation)
        for i in range(s.examples)
    ]
    assert len(set(images)) == 24
    again, _ = split(source, 0.25, seed=3)
    np.testing.assert_array_equal(again.labels, training.labels)


def test_folders_named_train_and_validation_are_taken_as_they_are(tmp_path, photos):
    root = tmp_path / "both"
    root.mkdir()
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            data = (photos / name / "0.JPEG").read_bytes()
            (root / part / name / "0.jpg").write_bytes(data)
    training, evaluation = open_data(root, holdout=0.5, seed=0)
    assert (training.examples, evaluation.examples) == (2, 2)
    (root / "val" / "dog").rename(root / "val" / "wolf")
    with pytest.raises(ValueError, match="differ in their classes: dog, wolf"):
        open_data(root, holdout=0.5, seed=0)


def test_an_npz_file_is_data_too(tmp_path):
    path = tmp_path / "d.npz"
    images = np.zeros((8, 6, 6), np.uint8)[..., None]
    np.savez(path, images=images, labels=np.arange(8) % 2, classes=np.array(["x", "y"]))
    training, evaluation = open_data(path, holdout=0.5, seed=0)
    assert training.classes == ("x", "y")
    assert evaluation.examples == 4
    np.savez(path, pictures=images)
    with pytest.raises(ValueError, match=r"not an \.npz file with the arrays images and labels"):
        open_data(path, holdout=0.5, seed=0)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), [0, 1, 0, 1], "images are float32"),
        (np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], r"images are uint8 \(4, 8, 8\)"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0], "for 4 images"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 3], "run from 0 to 3, but there are 2"),
        (np.zeros((4, 8, 8, 3), np.uint8), [0.0, 1, 0, 1], "labels are float64"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays("x", images, labels, ["a", "b"])


def test_data_that_is_not_there_says_what_is_wanted(tmp_path):
    with pytest.raises(ValueError, match="is not there: give a folder"):
        open_data(tmp_path / "nowhere", holdout=0.2, seed=0)
    with pytest.raises(ValueError, match=r"holdout 1\.5 is no share"):
        open_data(tmp_path, holdout=1.5, seed=0)


def test_a_source_says_which_image_an_index_is(photos):
    source = from_folder(photos)
    assert source.where(0) == str(photos / "cat" / "0.JPEG")
    assert source.take([6, 0]).where(0) == str(photos / "dog" / "2.JPEG")


def test_a_folder_in_another_file_system_is_read_the_same(photos):
    root = "ram://photos"
    for path in photos.glob("*/*.*"):
        tf.io.gfile.makedirs(f"{root}/{path.parent.name}")
        tf.io.gfile.copy(str(path), f"{root}/{path.parent.name}/{path.name}", overwrite=True)
    there, here = from_folder(root), from_folder(photos)
    assert there.where(0) == "ram://photos/cat/0.JPEG"
    assert there.labels.tolist() == here.labels.tolist()
    assert there.read(tf.constant(5)) == here.read(tf.constant(5))


def test_several_labels_are_split_and_taken_whole(source):
    labels = np.array([[0, 1], [2, -1]] * 12, np.int32)
    several = dataclasses.replace(source, labels=labels)
    assert several.is_multi_label
    assert not source.is_multi_label
    training, evaluation = split(several, 0.25, seed=1)
    assert (training.labels.shape, evaluation.labels.shape) == ((18, 2), (6, 2))
    held = [int(evaluation.where(i)) for i in range(6)]
    np.testing.assert_array_equal(evaluation.labels, labels[held])


def write_list(path, text):
    path.write_text(text)
    return path


def opened(path, **kwargs):
    return open_data(path, **{"holdout": 0.5, "seed": 0, **kwargs})


def test_a_csv_list_with_a_split_is_data(photos):
    path = write_list(
        photos / "list.csv",
        "image,label,split\ncat/0.JPEG,cat,train\ndog/0.JPEG,dog,train\n"
        f"{photos}/cat/1.png,cat,validation\n",
    )
    training, evaluation = opened(path)
    assert training.classes == evaluation.classes == ("cat", "dog")
    assert training.labels.tolist() == [0, 1]
    assert evaluation.labels.tolist() == [0]
    assert training.read(tf.constant(1)) == (photos / "dog" / "0.JPEG").read_bytes()
    assert training.where(1) == "dog/0.JPEG"


def test_a_list_without_a_split_holds_out_its_share(photos):
    rows = "".join(
        f"{kind}/{i}.JPEG,{n}\n" for n, kind in enumerate(["cat", "dog"]) for i in (0, 2)
    )
    training, evaluation = opened(write_list(photos / "list.csv", "image,label\n" + rows))
    assert training.classes == ("0", "1")
    assert sorted(training.labels) == sorted(evaluation.labels) == [0, 1]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_list_may_have_several_labels_an_image(photos, ending):
    rows = [
        ("cat/0.JPEG", ["furry", "cat"]),
        ("dog/0.JPEG", ["dog"]),
        ("dog/2.JPEG", ["dog", "furry"]),
    ]
    text = json.dumps([{"image": image, "label": labels} for image, labels in rows])
    if ending == "csv":
        text = "image,label\n" + "\n".join(f"{image},{'|'.join(own)}" for image, own in rows)
    training, evaluation = opened(write_list(photos / f"list.{ending}", text), holdout=0.3)
    assert training.classes == ("cat", "dog", "furry")
    assert training.labels.dtype == np.int32
    both = np.concatenate([training.labels, evaluation.labels]).tolist()
    assert sorted(both) == [[0, 2], [1, -1], [1, 2]]


def test_a_corrupt_file_of_a_list_is_named_as_in_a_folder(photos):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    path = write_list(
        photos / "list.csv",
        "image,label,split\ncat/0.JPEG,a,train\ndog/0.JPEG,b,train\nbad.jpg,b,train\n"
        "cat/2.JPEG,a,val\n",
    )
    training, _ = opened(path)
    assert (training.examples, training.skipped) == (2, ("bad.jpg",))
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded.*bad\.jpg"):
        opened(path, max_corrupt=0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "path,label\na.jpg,1\n", "has the columns path, label, and lacks image"),
        ("l.csv", "image,label\n", "has no rows"),
        ("l.csv", "image,label\na.jpg,\n", r"line 2 \(a.jpg\) has no label"),
        ("l.csv", "image,label\n,1\n", "line 2 has no image"),
        ("l.csv", "image,label\na.jpg,1\nb.jpg,0\n", "2 files that are not there: .*a.jpg"),
        ("l.csv", "image,label\na.jpg,x\nb.jpg,x\n", r"one class only \(x\)"),
        ("l.csv", "image,label\na.jpg,x\n./a.jpg,y\n", "has a.jpg more than once"),
        ("l.csv", "image,label,split\na.jpg,x,train\na.jpg,x,val\n", "a.jpg for training and for"),
        ("l.csv", "image,label,split\na.jpg,x,half\n", "the split 'half'; accepted: train"),
        ("l.csv", "image,label,split\na.jpg,x,train\nb.jpg,y,train\n", "training rows only"),
        ("l.json", "{", "is no JSON"),
        ("l.json", "{}", "must be a JSON list"),
        ("l.json", '[{"image": "a.jpg"}]', "object 0 lacks label"),
        ("l.json", '[{"image": "a.jpg", "label": -1}]', "has the label -1: class numbers begin"),
        ("l.json", '[{"image": "a.jpg", "label": [1, "x"]}]', "names and labels that are numbers"),
        ("l.txt", "a.jpg 1", "is of no kind that is known"),
    ],
)
def test_a_list_that_cannot_be_trained_on_is_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        opened(write_list(tmp_path / name, text))


def test_a_data_set_of_tensorflow_datasets_is_data(tmp_path):
    datasets = pytest.importorskip("tensorflow_datasets")
    datasets.core.add_data_dir(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 12, 3)).astype(np.uint8)

    class Colours(datasets.core.GeneratorBasedBuilder):
        __module__ = "colours"  # else it looks for its files among this project's
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
            found = source.crop(source.read(tf.constant(i)), [0, 0, 9, 12]).numpy()
            assert found.sum() % 2 == source.labels[i]
            assert found.tobytes() in {image.tobytes() for image in pixels}
    with pytest.raises(ValueError, match="knows no data set 'colour_of_money'"):
        opened("tfds:colour_of_money")


def test_a_package_that_a_data_set_lacks_is_named(monkeypatch):
    datasets = pytest.importorskip("tensorflow_datasets")

    def lacking(builder):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets.core.DatasetBuilder, "download_and_prepare", lacking)
    with pytest.raises(ValueError, match="tfds:mnist needs scipy, too: pip install scipy"):
        opened("tfds:mnist")


def test_without_tensorflow_datasets_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="needs tensorflow_datasets: pip install tensorflow-data"):
        opened("tfds:cifar10")
