"""Folders of splits."""

import pytest

from keras_effnet.datasets import splits as splits_module
from keras_effnet.datasets.folders import image_folders, open_folder
from keras_effnet.datasets.splits import TEST, TRAINING, VALIDATION, split_of


def _files(*folders, file="{}.jpg", count=2):
    return [f"{folder}/{file.format(n)}" for folder in folders for n in range(count)]


def _class_folders(*splits):
    return _files(*(f"{split}/{name}" for split in splits for name in ("cat", "dog")))


def find_splits(folder, files):
    return splits_module.find_splits(folder, image_folders(files))


@pytest.mark.parametrize(
    "training", ["Train", "TRAINING", "training_set", "train-set", "tr", "train2017"]
)
@pytest.mark.parametrize(
    "evaluation", ["val", "valid", "Validation", "dev", "EVAL", "holdout", "hold-out", "tst", "Te"]
)
def test_usual_names_of_splits_are_splits(training, evaluation):
    splits, notes = find_splits("d", _class_folders(training, evaluation))
    assert list(splits.values()) == [training, evaluation]
    assert list(splits) == [TRAINING, TEST if evaluation[0] in "tT" else VALIDATION]
    assert notes == ()


@pytest.mark.parametrize("name", ["trains", "valve", "tester", "devil", "cat", "evaluator", ""])
def test_other_names_are_no_splits(name):
    assert split_of(name) is None


def test_a_test_folder_beside_a_validation_is_a_third_split():
    splits, notes = find_splits("d", _class_folders("train", "valid", "Tst"))
    assert splits == {TRAINING: "train", VALIDATION: "valid", TEST: "Tst"}
    assert notes == ()


def test_training_images_alone_are_the_training_split():
    assert find_splits("d", _class_folders("Train")) == ({TRAINING: "Train"}, ())
    files = _class_folders("train") + _files("test")
    splits, (note,) = find_splits("d", files)
    assert splits == {TRAINING: "train"}
    assert note == "not used, because they have no class folders: test"


def test_folders_beside_both_splits_are_named():
    files = (
        _class_folders("train", "val") + _files("extra") + ["labels/a.xml", "__MACOSX/x/._a.jpg"]
    )
    splits, (note,) = find_splits("d", files)
    assert splits == {TRAINING: "train", VALIDATION: "val"}
    assert note == "not used, because they are no splits: extra"


@pytest.mark.parametrize(
    ("files", "inside", "splits"),
    [
        (_class_folders("images/train", "images/val"), "images", ["train", "val"]),
        (_class_folders("dataset/Train", "dataset/test"), "dataset", ["Train", "test"]),
        (
            _class_folders("seg_train", "seg_test") + _files("seg_pred"),
            "",
            ["seg_train", "seg_test"],
        ),
        (_class_folders("a_train/a_train", "a_test"), "", ["a_train/a_train", "a_test"]),
        (_class_folders("train/images", "valid/images"), "", ["train/images", "valid/images"]),
    ],
)
def test_splits_are_found_in_and_around_other_folders(tmp_path, files, inside, splits):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff")
    dataset = open_folder(str(tmp_path))
    assert dataset.folder == str(tmp_path / inside)
    assert list(dataset.split_folders.values()) == splits
    assert [images.classes for images in dataset.open(*dataset.splits)] == [("cat", "dog")] * 2


def test_a_class_of_trains_is_a_class():
    assert find_splits("d", _files("bus", "car", "train")) == ({}, ())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (_files("train", "test", "sample"), "is train a class, or the training images?"),
        (_files("de", "en", "te", "tr"), "is tr a class, or the training images?"),
        (_class_folders("valid", "test"), "valid, test and no training images"),
        (_files("cat", "dog") + _class_folders("test"), "is test a class, or the test images?"),
        (_files("cat", "dog", "val"), "is val a class, or the validation images?"),
        (_files("cat") + _class_folders("train"), "is train a class, or the training images?"),
        (_class_folders("train", "Training", "val"), "Training, train, which are the same split"),
        (_class_folders("train", "val", "dev"), "dev, val, which are the same split"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_a_question(files, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        find_splits("d", files)
