import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tpu_train.input_pipeline.batches import evaluation_batches, training_batches
from tpu_train.input_pipeline.data_loading import (
    from_arrays,
    from_folder,
    open_data,
    open_path,
    open_test_images,
)
from tpu_train.recipes.phases import make_phases


def opened(path, **kwargs):
    return open_data(path, **{"holdout": 0.5, "seed": 0, **kwargs})


def write_manifest(path, text):
    path.write_text(text)
    return path


def test_images_of_a_folder_are_decoded(photos, tiny_recipe):
    source = from_folder(photos)
    assert source.classes == ("cat", "dog")
    assert source.examples == 7
    phase = make_phases(tiny_recipe, source.examples)[0]
    data = training_batches(source, tiny_recipe, phase, first_step=0, end_step=1, replicas=1)
    assert next(iter(data))["image"].shape == (8, 32, 32, 3)


def test_corrupt_files_are_named_and_skipped_up_to_a_limit(photos):
    bad = photos / "dog" / "9.jpg"
    bad.write_bytes(b"\xff\xd8\xff broken")
    source = from_folder(photos)
    assert source.skipped == (str(bad),)
    assert source.examples == 7
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded.*9\.jpg"):
        from_folder(photos, max_corrupt=0)


def test_folders_without_images_or_classes_are_errors(tmp_path):
    with pytest.raises(ValueError, match="has no images: it needs one folder per class"):
        from_folder(tmp_path)
    (tmp_path / "only").mkdir()
    pixel = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8))
    tf.io.write_file(str(tmp_path / "only" / "a.png"), pixel)
    with pytest.raises(ValueError, match=r"only one class \(only\)"):
        from_folder(tmp_path)


def test_folders_train_and_val_are_the_splits(tmp_path, photos):
    root = tmp_path / "both"
    root.mkdir()
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            data = (photos / name / "0.JPEG").read_bytes()
            (root / split / name / "0.jpg").write_bytes(data)
    training, evaluation = open_data(root, holdout=0.5, seed=0)
    assert (training.examples, evaluation.examples) == (2, 2)
    (root / "val" / "dog").rename(root / "val" / "wolf")
    with pytest.raises(
        ValueError, match="val has classes that the training images do not have: wo"
    ):
        open_data(root, holdout=0.5, seed=0)
    shutil.rmtree(root / "val" / "wolf")
    training, evaluation = open_data(root, holdout=0.5, seed=0)
    assert (training.classes, evaluation.classes) == (("cat", "dog"),) * 2
    assert "val has no images of the classes dog" in evaluation.notes[0]


def test_npz_files_are_data(tmp_path):
    path = tmp_path / "d.npz"
    images = np.zeros((8, 6, 6), np.uint8)[..., None]
    np.savez(path, images=images, labels=np.arange(8) % 2, classes=np.array(["x", "y"]))
    training, evaluation = open_data(path, holdout=0.5, seed=0)
    assert training.classes == ("x", "y")
    assert evaluation.examples == 4
    np.savez(path, pictures=images)
    with pytest.raises(ValueError, match=r"has the arrays pictures; it needs `images`"):
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
def test_arrays_that_cannot_be_trained_on_are_errors(images, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays("x", images, labels, ["a", "b"])


def test_missing_data_is_an_error_that_lists_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match="does not exist: give a folder"):
        open_data(tmp_path / "nowhere", holdout=0.2, seed=0)
    with pytest.raises(ValueError, match=r"holdout must be at least 0.* got 1\.5"):
        open_data(tmp_path, holdout=1.5, seed=0)


def test_remote_folders_are_read_like_local_ones(photos):
    root = "ram://photos"
    for path in photos.glob("*/*.*"):
        tf.io.gfile.makedirs(f"{root}/{path.parent.name}")
        tf.io.gfile.copy(str(path), f"{root}/{path.parent.name}/{path.name}", overwrite=True)
    remote, local = from_folder(root), from_folder(photos)
    assert remote.where(0) == "ram://photos/cat/0.JPEG"
    assert remote.labels.tolist() == local.labels.tolist()
    assert remote.read(tf.constant(5)) == local.read(tf.constant(5))


def test_photos_are_upright_in_batches_unless_the_recipe_ignores_exif(tmp_path, tiny_recipe):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[:20] = 255
        exif = Image.Exif()
        exif[274] = 3
        for n, kind in enumerate(("jpg", "webp", "png")):
            Image.fromarray(pixels).save(tmp_path / name / f"{n}.{kind}", exif=exif)
    source = from_folder(tmp_path)
    assert source.examples == 6
    recipe = dataclasses.replace(
        tiny_recipe, augment="none", random_crop_min_area=1.0, flip=False, ignore_exif=False
    )
    phase = make_phases(recipe, source.examples)[0]
    for ignore_exif in (False, True):
        recipe = dataclasses.replace(recipe, ignore_exif=ignore_exif)
        options = {"first_step": 0, "end_step": 1, "replicas": 1}
        (training,) = training_batches(source, recipe, phase, **options)
        (evaluation,) = evaluation_batches(source, 32, 6, replicas=1, ignore_exif=ignore_exif)
        for batch in (training, evaluation):
            top_is_white = batch["image"].numpy()[:, :12].mean((1, 2, 3)) > 200
            assert (top_is_white == ignore_exif).all()


def test_a_manifest_without_splits_holds_out_a_fraction(photos):
    rows = "".join(
        f"{kind}/{i}.JPEG,{n}\n" for n, kind in enumerate(["cat", "dog"]) for i in (0, 2)
    )
    training, evaluation = opened(write_manifest(photos / "manifest.csv", "image,label\n" + rows))
    assert training.classes == ("0", "1")
    assert sorted(training.labels) == sorted(evaluation.labels) == [0, 1]


def test_corrupt_files_of_a_manifest_are_named_and_skipped(photos):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    path = write_manifest(
        photos / "manifest.csv",
        "image,label,split\ncat/0.JPEG,a,train\ndog/0.JPEG,b,train\nbad.jpg,b,train\n"
        "cat/2.JPEG,a,val\n",
    )
    training, _ = opened(path)
    assert (training.examples, training.skipped) == (2, ("bad.jpg",))
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded.*bad\.jpg"):
        opened(path, max_corrupt=0)


def test_test_rows_are_kept_out_if_there_are_validation_rows(photos):
    path = write_manifest(
        photos / "l.csv",
        "image,label,split\ncat/0.JPEG,a,train\ndog/0.JPEG,b,train\ncat/2.JPEG,a,val\n"
        "dog/2.JPEG,b,test\n",
    )
    training, evaluation = opened(path)
    assert (training.examples, evaluation.examples) == (2, 1)
    assert training.notes[0] == f"kept for the end of the run: the test images of {path}"


def test_test_images_get_the_numbers_of_the_training_classes(tmp_path, photos):
    for split, names in (("train", "ab"), ("val", "ab"), ("test", "b")):
        for name in names:
            (tmp_path / "all" / split / name).mkdir(parents=True)
            data = (photos / "cat" / "0.JPEG").read_bytes()
            (tmp_path / "all" / split / name / "0.jpg").write_bytes(data)
    test = open_test_images(open_path(tmp_path / "all"), ("a", "b"))
    assert (test.classes, test.labels.tolist()) == (("a", "b"), [1])
    with pytest.raises(ValueError, match="classes that the training images lack: b"):
        open_test_images(open_path(tmp_path / "all"), ("a", "c"))
    shutil.rmtree(tmp_path / "all" / "val")  # then training evaluates on them
    assert open_test_images(open_path(tmp_path / "all"), ("a", "b")) is None


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            (0, 1, 2, 10),
            "no image has the class 3, 4, 5, 6 and 3 others, only 0, 1, 2, 10.*list of",
        ),
        ((1, 2, 3), "no image has the class 0, only 1, 2, 3.* like counting from 1: subtract 1"),
    ],
)
def test_class_numbers_with_gaps_are_explained(tmp_path, numbers, message):
    labels = np.repeat(numbers, 3)
    np.savez(tmp_path / "d.npz", images=np.zeros((len(labels), 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path / "d.npz", holdout=0.5, seed=0)


def test_a_manifest_of_one_class_cannot_be_trained_on(photos):
    path = write_manifest(photos / "l.csv", "image,label\ncat/0.JPEG,x\ncat/1.png,x\n")
    with pytest.raises(ValueError, match=r"only one class \(x\); training needs at least two"):
        opened(path)
