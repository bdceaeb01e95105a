import json
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tflite
from keras_effnet.image_preprocessing import Preprocessing, resize
from keras_effnet.model_input import image_input
from tflite.images.loader import ImageSet, fit_labels

_PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def _folder(root, **classes):
    for name, count in classes.items():
        (root / name).mkdir()
        for i in range(count):
            Image.fromarray(np.roll(_PHOTO, i)).save(root / name / f"{i:02}.png")
    return root


def _png(path):
    Image.fromarray(_PHOTO).save(path)


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (48, 32)])
def test_images_are_cropped_as_in_an_evaluation_of_the_model(tiny, build, size):
    crop = Preprocessing(32, 0.8, "bicubic")
    stated = image_input(build(tiny, input_shape=(*size, 3), preprocessing=crop))
    assert stated.preprocessing.crop == 0.8
    photo = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    (loaded,) = tflite.load_images(photo[None], size, preprocessing=stated.preprocessing).images
    np.testing.assert_array_equal(loaded, stated.prepare(photo))


@pytest.mark.parametrize("size", [(20, 30), (32, 32), (7, 11), (224, 224)])
def test_resize_is_the_bilinear_stretch_of_tensorflow(size):
    want = np.rint(tf.image.resize(_PHOTO, size)).astype(int)
    assert np.abs(resize(_PHOTO, *size).astype(int) - want).max() <= 1
    assert resize(_PHOTO, *size).dtype == np.uint8


def test_resize_agrees_with_opencv():
    """cv2.resize(image, (5, 3), interpolation=cv2.INTER_LINEAR) of OpenCV 5.0, recorded."""
    image = np.arange(8 * 10, dtype=np.uint8).reshape(8, 10, 1) * 3
    want = [[26, 32, 38, 44, 50], [107, 113, 119, 125, 131], [186, 192, 198, 204, 210]]
    assert np.abs(resize(image, 3, 5)[..., 0].astype(int) - want).max() <= 1


def test_a_flat_folder_is_read_in_name_order(tmp_path):
    for i in (10, 2, 1):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i}.PNG")
    loaded = tflite.load_images(tmp_path, (4, 4))
    assert loaded.images[:, 0, 0, 0].tolist() == [1, 10, 2]
    assert loaded.labels is None


def test_class_folders_are_labels_in_name_order(tmp_path):
    loaded = tflite.load_images(_folder(tmp_path, dog=2, cat=3), (32, 32))
    assert loaded.images.shape == (5, 32, 32, 3)
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1]
    assert loaded.class_names == ("cat", "dog")


def test_class_folders_are_matched_with_class_names(tmp_path):
    _folder(tmp_path, dog=1, cat=1)
    loaded = tflite.load_images(tmp_path, (8, 8), class_names=["bird", "Dog", "cat"])
    assert loaded.labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"'dog'\. Did you mean 'dogs'"):
        tflite.load_images(tmp_path, (8, 8), class_names=["cat", "dogs"])


def test_a_folder_of_a_repeated_class_name_is_an_error(tmp_path):
    _folder(tmp_path, dog=1, crane=1)
    with pytest.raises(ValueError, match="'crane' is the name of the model's classes 0 and 2"):
        tflite.load_images(tmp_path, (8, 8), class_names=["crane", "dog", "crane"])
    (tmp_path / "crane").rename(tmp_path / "cat")
    loaded = tflite.load_images(tmp_path, (8, 8), class_names=["crane", "dog", "crane", "cat"])
    assert loaded.labels.tolist() == [3, 1]


def test_splits_are_training_or_validation_or_test_images(tmp_path):
    for split, count in (("train", 3), ("test", 2), ("valid", 1)):
        (tmp_path / split).mkdir()
        _folder(tmp_path / split, cat=count, dog=count)
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.source == f"{tmp_path / 'train'} (6 images, 2 classes)"
    assert loaded.files[3] == "dog/00.png"
    assert "  the train images; not used: validation, test" in loaded.notes()
    loaded = tflite.load_images(tmp_path, (8, 8), evaluation=True)
    assert loaded.source == f"{tmp_path / 'valid'} (2 images, 2 classes)"
    assert len(tflite.load_images(tmp_path / "test", (8, 8)).images) == 4
    for split in ("valid", "test"):
        shutil.rmtree(tmp_path / split)
    loaded = tflite.load_images(tmp_path, (8, 8), evaluation=True)
    assert len(loaded.images) == 6
    assert "  the training images: there are no validation or test images" in loaded.notes()


def test_a_manifest_is_a_source(tmp_path):
    _folder(tmp_path, a=2, b=2)
    rows = ["a/00.png,cat,train", "a/01.png,dog,val", "b/00.png,dog,train", "b/01.png,cat,val"]
    (tmp_path / "m.csv").write_text("\n".join(["image,label,split", *rows]))
    loaded = tflite.load_images(tmp_path / "m.csv", (8, 8), class_names=["dog", "cat"])
    assert (loaded.files, loaded.labels.tolist()) == (("a/00.png", "b/00.png"), [1, 0])
    assert loaded.source == f"{tmp_path / 'm.csv'} train (2 images, 2 classes)"
    loaded = tflite.load_images(tmp_path / "m.csv", (8, 8), evaluation=True)
    assert (loaded.class_names, loaded.labels.tolist()) == (("cat", "dog"), [1, 0])
    rows = [{"image": "a/00.png", "label": ["cat", "dog"]}, {"image": "a/01.png", "label": "cat"}]
    (tmp_path / "m.json").write_text(json.dumps(rows))
    loaded = tflite.load_images(tmp_path / "m.json", (8, 8))
    assert loaded.labels is None
    assert "several labels per image: not used" in loaded.source


def test_a_limit_spreads_over_all_classes(tmp_path):
    loaded = tflite.load_images(_folder(tmp_path, a=6, b=6), (8, 8), limit=4)
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    assert "4 of 12 images, 2 classes" in loaded.source


def test_files_are_in_the_order_of_the_images(tmp_path):
    _folder(tmp_path, dog=3, cat=2)
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.files == ("cat/00.png", "cat/01.png", "dog/00.png", "dog/01.png", "dog/02.png")
    for file, image in zip(loaded.files, loaded.images):
        pixels = np.asarray(Image.open(tmp_path / file).convert("RGB"))
        np.testing.assert_array_equal(image, resize(pixels, 8, 8))
    assert tflite.load_images(tmp_path, (8, 8), limit=2).files == ("cat/00.png", "dog/00.png")
    assert tflite.load_images(tmp_path / "cat", (8, 8)).files == ("00.png", "01.png")


def test_skipped_files_are_not_listed(tmp_path):
    _folder(tmp_path, a=2)
    (tmp_path / "a" / "00b.png").write_bytes(b"no image")
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.files == ("a/00.png", "a/01.png")
    assert len(loaded.files) == len(loaded.images)


def test_arrays_have_no_files():
    assert tflite.load_images(_PHOTO[None], (8, 8)).files == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_of_images_is_an_array(count):
    assert tflite.load_images([_PHOTO] * count, (20, 30)).images.shape == (count, 20, 30, 3)


def test_an_empty_list_is_an_error():
    with pytest.raises(ValueError, match=r"images have shape \(0,\); give \(n, height"):
        tflite.load_images([], (20, 30))


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(tmp_path):
    _folder(tmp_path, a=2, b=2)
    for name in ("x.jpg", "y.png"):
        (tmp_path / "a" / name).write_bytes(b"\xff\xd8\xff no image")
    loaded = tflite.load_images(tmp_path, (8, 8), max_corrupt=2)
    assert [p.rsplit("/", 1)[1] for p in loaded.skipped] == ["x.jpg", "y.png"]
    assert loaded.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"More than 1 images cannot be decoded.*y\.png"):
        tflite.load_images(tmp_path, (8, 8), max_corrupt=1)


def test_a_truncated_image_is_corrupt(tmp_path):
    _png(tmp_path / "good.png")
    _png(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:900])
    assert len(tflite.load_images(tmp_path, (8, 8)).skipped) == 1


def test_sixteen_bit_images_keep_their_upper_8_bits(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.skipped == ()
    assert np.unique(loaded.images) == [40000 >> 8]  # not white


@pytest.mark.parametrize("name", ["a.webp", "a.tiff", "a.AVIF", "a.bmp", "a.jp2", "a.unknown", "a"])
def test_every_format_is_read_by_its_content(tmp_path, name):
    kind = {"unknown": "WEBP", "a": "PNG"}.get(name.split(".")[-1])
    (tmp_path / "cat").mkdir()
    Image.fromarray(_PHOTO).save(tmp_path / "cat" / name, kind)
    Image.fromarray(_PHOTO).save(tmp_path / "cat" / "wrong.jpg", "GIF")
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.files == (f"cat/{name}", "cat/wrong.jpg")
    assert (loaded.skipped, loaded.left_out) == ((), ())


def test_files_that_are_not_read_are_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    _folder(tmp_path, cat=1)
    for name, content in (("b.jxl", b"\xff\x0a" + bytes(40)), ("c.jpg", b"<html>")):
        (tmp_path / "cat" / name).write_bytes(content)
    (tmp_path / "cat" / "d.jpg").write_bytes(b"\xff\xd8\xff" + bytes(40))
    (tmp_path / "cat" / "._0.jpg").write_bytes(b"hidden")
    (tmp_path / "cat" / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # opening it would block
    Image.new("L", (100, 21)).save(tmp_path / "cat" / "e.png")
    Image.new("L", (100, 15)).save(tmp_path / "cat" / "large.png")  # only warned about by Pillow
    loaded = tflite.load_images(tmp_path, (8, 8))
    assert loaded.files == ("cat/00.png", "cat/large.png")
    assert loaded.skipped == tuple(str(tmp_path / "cat" / name) for name in ("d.jpg", "e.png"))
    notes = "\n".join(loaded.notes())
    assert "d.jpg: image of 43 bytes" in notes
    assert re.search(r"e\.png: image of .* cannot be decoded: it is larger than 2,000 pix", notes)
    assert "JPEG XL is not supported here, convert it to JPEG or PNG" in notes
    for kind in ("1 JPEG XL", "1 .jpg without an image in it", "2 pipe or dangling link"):
        assert kind in notes
    assert "(cat/c.jpg, cat/dangling.png, cat/pipe.png). JPEG XL is not supported" in notes
    assert notes.count("files of archives and operating systems (1): cat/._0.jpg") == 1


def test_an_npz_has_images_and_optional_labels(tmp_path):
    np.savez(tmp_path / "c.npz", images=_PHOTO[None], labels=[1], classes=["cat", "dog"])
    loaded = tflite.load_images(tmp_path / "c.npz", (8, 8), class_names=["dog", "cat"])
    assert (loaded.labels.tolist(), loaded.class_names) == ([0], ("cat", "dog"))
    np.savez(tmp_path / "a.npz", images=_PHOTO[None], labels=[3])
    assert tflite.load_images(tmp_path / "a.npz", (20, 30)).labels.tolist() == [3]
    np.savez(tmp_path / "b.npz", images=_PHOTO[None])
    loaded = tflite.load_images(tmp_path / "b.npz", (20, 30))
    assert loaded.labels is None
    np.testing.assert_array_equal(loaded.images[0], _PHOTO)


def test_float_and_grayscale_arrays_become_uint8_rgb():
    loaded = tflite.load_images(_PHOTO[None, ..., :1].astype(np.float32), (20, 30))
    np.testing.assert_array_equal(loaded.images[0], np.repeat(_PHOTO[..., :1], 3, -1))


def test_grey_models_get_grey_images(tmp_path):
    _png(tmp_path / "a.png")
    loaded = tflite.load_images(tmp_path, (20, 30, 1))
    want = np.asarray(Image.fromarray(_PHOTO).convert("L"))
    np.testing.assert_array_equal(loaded.images[0, ..., 0], want)
    grey = tflite.load_images(want[None, ..., None], (20, 30, 1))
    np.testing.assert_array_equal(grey.images[0, ..., 0], want)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (_PHOTO[None] / 255.0, r"scaled to \[0, 1\]"),
        (_PHOTO[None] - 128.0, r"values are between -128 and 127"),
        (_PHOTO[None].astype(np.int32) + 10, r"give pixels in \[0, 255\]"),
        (_PHOTO[None] * np.nan, r"nan"),
        (_PHOTO, r"shape \(20, 30, 3\)"),
        (_PHOTO[None].transpose(0, 3, 1, 2), r"give \(n, height, width, 3\)"),
        (_PHOTO[None][:0], r"n at least 1"),
        (np.array([["a"]]).reshape(1, 1, 1, 1), r"give numbers"),
        ((_PHOTO[None], [1, 2]), r"labels are int64 \(2,\) for 1 images"),
        ((_PHOTO[None], [0.5]), r"one integer per image"),
    ],
)
def test_bad_arrays_are_errors(images, message):
    with pytest.raises(ValueError, match=message):
        tflite.load_images(images, (8, 8))


def test_bad_sources_are_errors(tmp_path):
    def fails(match, path=tmp_path, **options):
        with pytest.raises(ValueError, match=match):
            tflite.load_images(path, (8, 8), **options)

    fails("'[^']*none' does not exist: give a folder", tmp_path / "none")
    fails("has no images")
    os.mkfifo(tmp_path / "pipe.npz")
    fails("is neither a folder nor a file: give a folder", tmp_path / "pipe.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    fails("is not an .npz", tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pictures=_PHOTO[None])
    fails("has the arrays pictures; it needs `images`", tmp_path / "b.npz")
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff nothing")
    fails("none of its 1 images can be decoded")
    fails("at least 1 image, got 0", limit=0)
    _folder(tmp_path, cat=1)
    fails("has both images .* and folders of images")


@pytest.mark.parametrize(
    ("data", "classes", "class_names", "want", "names"),
    [
        (([0, 2], None), 3, None, [0, 2], None),
        (([0, 1], ("a", "b", "c")), 3, None, [0, 1], ("a", "b", "c")),
        (([0, 1], ("a", "b")), 3, ("a", "b", "c"), [0, 1], ("a", "b", "c")),  # matched by name
        (([0, 1], ("a", "b")), 3, None, None, None),  # not the model's three classes
        ((None, None), 3, None, None, None),
        (([1, 0], ("goldfish", "n01440764")), 1000, None, [0, 1], None),
    ],
)
def test_labels_fit_if_they_are_of_the_models_classes(data, classes, class_names, want, names):
    labels = None if data[0] is None else np.array(data[0])
    images, lines = ImageSet(_PHOTO[None], labels, data[1], (), "photos/"), []
    got = fit_labels(images, classes, class_names, lines.append)
    assert (None if got.labels is None else got.labels.tolist()) == want
    assert bool(lines) == (labels is not None and want is None)
    if classes == 3:
        assert got.class_names == names
    else:  # of all outputs
        assert got.class_names[:2] == ("tench", "goldfish")


def test_labels_beyond_the_classes_are_an_error():
    images = ImageSet(_PHOTO[None], np.array([3]), None, (), "photos/")
    with pytest.raises(ValueError, match=r"photos/: labels must be in 0 to 2 .* got 3 to 3"):
        fit_labels(images, 3, None, print)
