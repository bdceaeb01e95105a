import numpy as np
import pytest
import tensorflow as tf

from tpu_train.input_pipeline.batches import training_batches
from tpu_train.input_pipeline.data_loading import from_arrays, from_folder, open_data
from tpu_train.recipes.phases import make_phases


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
    with pytest.raises(ValueError, match="have different classes: dog, wolf"):
        open_data(root, holdout=0.5, seed=0)


def test_npz_files_are_data(tmp_path):
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
def test_arrays_that_cannot_be_trained_on_are_errors(images, labels, message):
    with pytest.raises(ValueError, match=message):
        from_arrays("x", images, labels, ["a", "b"])


def test_missing_data_is_an_error_that_lists_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match="does not exist: give a folder"):
        open_data(tmp_path / "nowhere", holdout=0.2, seed=0)
    with pytest.raises(ValueError, match=r"holdout must be between 0 and 1.* got 1\.5"):
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
