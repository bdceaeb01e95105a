"""Which images a training uses: damaged, duplicate and few images."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_effnet.datasets.duplicates import find_duplicates
from keras_effnet.datasets.training_data import open_training_data


def _opened(data, **options):
    return open_training_data(data, **{"holdout": 0.3, "seed": 0, **options})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_skipped_up_to_a_limit(photos, kind):
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, kind)
    for name, content in (("cut", file.getvalue()[:-900]), ("whole", file.getvalue())):
        (photos / "dog" / f"{name}.jpg").write_bytes(content)
    training, evaluation = _opened(photos)
    assert training.skipped == (str(photos / "dog" / "cut.jpg"),)
    assert len(training) + len(evaluation) == 8
    with pytest.raises(ValueError, match=r"More than 0 images cannot be decoded: .*cut\.jpg"):
        _opened(photos, max_corrupt=0)


def test_images_with_bytes_behind_their_end_are_used(photos):
    with open(photos / "cat" / "0.JPEG", "ab") as file:
        file.write(b"of a phone" * 9)
    training, evaluation = _opened(photos)
    assert (len(training) + len(evaluation), training.skipped) == (7, ())


def test_a_class_of_damaged_files_is_an_error(photos):
    for path in (photos / "dog").iterdir():
        path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ValueError, match="no image of the class dog can be decoded"):
        _opened(photos)


def test_duplicates_of_splits_and_classes_are_named(photos):
    data = photos.parent / "data"
    shutil.copytree(photos, data / "train")
    for source, copy in (("cat/0", "cat/9"), ("dog/0", "cat/8"), ("dog/2", "dog/2")):
        target = data / "val" / f"{copy}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / f"{source}.JPEG", target)
    training, _evaluation = _opened(data)
    leaks, conflicts = [note for note in training.notes if "bytes" in note]
    assert leaks.startswith("3 evaluation images have the same bytes as training images")
    assert f"{data}/val/cat/9.jpg = {data}/train/cat/0.JPEG" in leaks
    assert conflicts.startswith("1 images are in several classes with the same bytes: ")
    assert f"{data}/train/dog/0.JPEG = {data}/val/cat/8.jpg" in conflicts
    with pytest.raises(ValueError, match="3 evaluation images have the same bytes"):
        _opened(data, on_duplicates="error")
    assert not [n for n in _opened(data, on_duplicates="ignore")[0].notes if "bytes" in n]


def test_only_files_with_equal_size_and_ends_are_read(photos):
    training, evaluation = _opened(photos)
    path = training.storage.paths[0]
    with open(path, "r+b") as file:  # the middle of a copy differs
        content = file.read()
    copy = path + ".copy.jpg"
    with open(copy, "wb") as file:
        file.write(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    read = []

    class Counting(type(training)):
        def stored(self, i):
            read.append(self.where(i))
            return super().stored(i)

    both, evaluation = _opened(photos)
    counting = Counting(both.name, both.classes, both.storage, both.known_labels)
    assert find_duplicates([counting, evaluation]) == []
    assert len(read) <= 2


def test_equal_pixels_of_arrays_are_duplicates(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 3)).astype(np.uint8)
    pixels[6:] = pixels[:6]
    np.savez(tmp_path / "d.npz", images=pixels, labels=[0, 1] * 3 + [1, 0] * 3)
    training, _ = _opened(tmp_path / "d.npz")
    assert "6 images are in several classes with the same bytes" in training.notes[-1]


def test_classes_that_have_almost_the_same_name_are_named(photos):
    for name in ("Cat", "cat ", "hot dog", "hot_dog", "-", "_"):
        shutil.copytree(photos / "cat", photos / name)
    training, _ = _opened(photos, on_duplicates="ignore")
    expected = "_ or - only: 'Cat' = 'cat' = 'cat ', 'hot dog' = 'hot_dog'"
    assert any(note.endswith(expected) for note in training.notes)


def test_a_split_folder_without_images_is_named(photos):
    data = photos.parent / "data"
    shutil.copytree(photos, data / "train")
    (data / "val" / "cat").mkdir(parents=True)
    training, evaluation = _opened(data)
    assert len(training) + len(evaluation) == 7
    assert "not used, because they have no images: val" in training.notes


def test_folders_that_systems_and_python_leave_are_no_classes(photos):
    (photos / "__pycache__").mkdir()
    (photos / "__pycache__" / "a.pyc").write_bytes(b"x")
    (photos / "System Volume Information").mkdir()
    training, _ = _opened(photos)
    assert training.classes == ("cat", "dog")


def test_files_without_their_content_are_named_by_the_reason(photos):
    (photos / "owl").mkdir()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    (photos / "owl" / "0.jpg").write_bytes(pointer)
    with pytest.raises(ValueError, match="1 Git LFS pointer, whose image git lfs pull downloads"):
        _opened(photos)
    (photos / "owl" / "0.jpg").write_bytes(b"II*\0\x10\0\0\0CR\2\0" + bytes(200))
    with pytest.raises(ValueError, match="a kind of TIFF that is not read"):
        _opened(photos, max_corrupt=0)
