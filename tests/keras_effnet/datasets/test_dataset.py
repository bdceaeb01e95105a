import os
import subprocess
import sys

import numpy as np
import pytest

from keras_effnet.datasets.dataset import check_path, open_dataset
from keras_effnet.datasets.holdout import hold_out, small_classes


def test_only_local_paths_are_checked_without_tensorflow(tmp_path):
    for path in ("tfds:cifar10", "gs://bucket/photos", str(tmp_path)):
        check_path(path)
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="has an unknown type"):
        check_path(str(tmp_path / "photos.zip"))
    with pytest.raises(ValueError, match="does not exist: give a folder"):
        open_dataset(tmp_path / "nowhere")


def test_a_folder_of_images_without_classes_has_no_labels(photos):
    dataset = open_dataset(photos / "cat")
    (images,) = dataset.open(*dataset.splits)
    assert (images.classes, images.labels) == (None, None)
    assert images.notes == ("not read, because they are no images of a known format: 1 .txt",)
    decoded = list(images)
    assert [image.labels for image in decoded] == [()] * 4
    assert [image.pixels.shape for image in decoded] == [(40 + i, 50, 3) for i in range(4)]
    assert decoded[1].identifier == str(photos / "cat" / "1.png")


def test_images_of_an_array_keep_their_number_in_the_file(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((6, 4, 4, 3), np.uint8), labels=[0, 1] * 3)
    (images,) = open_dataset(tmp_path / "d.npz").open("all")
    held_out = images.take([1, 3, 5]).take([0, 2])
    assert [image.identifier for image in held_out] == ["1", "5"]


def test_pipes_and_dangling_links_are_not_opened(photos):
    os.mkfifo(photos / "cat" / "pipe.png")
    (photos / "dog" / "link.png").symlink_to("nowhere")
    (images,) = open_dataset(photos).open("all")
    assert len(images) == 7
    assert "2 pipe or dangling link" in images.notes[0]
    (photos / "m.csv").write_text("image,label\ncat/pipe.png,cat\ndog/0.JPEG,dog\n")
    with pytest.raises(ValueError, match=r"names 1 files that do not exist: .*pipe\.png"):
        open_dataset(photos / "m.csv").open("all")


def test_an_image_that_cannot_be_decoded_is_named(photos):
    (photos / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (images,) = open_dataset(photos).open("all")
    with pytest.raises(ValueError, match=r"dog/1\.png: image of 14 bytes"):
        images.take([0, 5]).pixels(1)


def test_arrays_are_images_with_and_without_labels(tmp_path):
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.savez(tmp_path / "d.npz", images=pixels)
    (images,) = open_dataset(tmp_path / "d.npz").open("all")
    assert images.labels is None
    np.testing.assert_array_equal(images.pixels(1), np.repeat(pixels[1], 3, -1))
    np.savez(tmp_path / "d.npz", images=pixels, labels=[1, 0], classes=["a", "b"])
    (images,) = open_dataset(tmp_path / "d.npz").open("all")
    assert (images.classes, images.labels.tolist()) == (("a", "b"), [1, 0])
    np.savez(tmp_path / "d.npz", images=pixels, labels=[[1], [0]])  # as keras.datasets gives
    (images,) = open_dataset(tmp_path / "d.npz").open("all")
    assert images.labels.tolist() == [1, 0]
    np.savez(tmp_path / "d.npz", images=pixels, labels=[20261127, 0])
    with pytest.raises(ValueError, match="has the label 20261127: labels that are numbers are"):
        open_dataset(tmp_path / "d.npz").open("all")
    np.savez(tmp_path / "d.npz", pictures=pixels)
    with pytest.raises(ValueError, match=r"d\.npz has the arrays pictures; it needs `images`"):
        open_dataset(tmp_path / "d.npz").open("all")
    with open(tmp_path / "d.npz", "wb") as file:
        np.save(file, pixels)
    with pytest.raises(ValueError, match=r"d\.npz is not an \.npz file with the arrays images"):
        open_dataset(tmp_path / "d.npz").open("all")


def test_held_out_images_are_a_function_of_the_seed():
    labels = np.repeat([0, 1], 10)
    kept, held_out = hold_out("x", labels, ("a", "b"), 0.2, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [2, 2]
    assert sorted([*kept, *held_out]) == list(range(20))
    np.testing.assert_array_equal(hold_out("x", labels, ("a", "b"), 0.2, seed=3)[1], held_out)
    with pytest.raises(ValueError, match="x has one image of each class: it needs at least two"):
        hold_out("x", np.array([0, 1]), ("a", "c"), 0.2, seed=0)


def test_classes_of_few_images_are_kept_and_named_in_one_warning():
    labels = np.array([0] * 100 + [1] + [2] * 3)
    kept, held_out = hold_out("x", labels, ("a", "b", "c"), 0.2, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [20, 0, 1]
    warning = small_classes(labels[kept], labels[held_out], ("a", "b", "c"))
    assert warning.endswith("expect little accuracy: b (1, none to evaluate), c (2)")


def test_images_are_read_without_any_framework(photos):
    code = (
        "import sys; from keras_effnet.datasets.dataset import open_dataset\n"
        f"print([sum(labels) for _, _, labels in open_dataset({str(photos)!r}).open('all')[0]])\n"
        "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[0, 0, 0, 0, 1, 1, 1]\nset()\n", result.stderr
