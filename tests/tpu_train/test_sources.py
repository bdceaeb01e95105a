import numpy as np
import pytest
import tensorflow as tf

from tpu_train.data import training_batches
from tpu_train.phases import phases
from tpu_train.sources import from_arrays, from_folder, open_data, split


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
    phase = phases(tiny_recipe, source.examples)[0]
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
