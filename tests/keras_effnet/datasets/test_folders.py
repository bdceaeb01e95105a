import itertools
import os

import pytest

from keras_effnet.datasets.file_probe import FileProbe
from keras_effnet.datasets.folders import (
    check_several_classes,
    find_images,
    image_folders,
    is_leftover,
    open_folder,
)
from keras_effnet.datasets.labeled_images import ImageFiles, LabeledImages
from keras_effnet.image_decoding import IMAGE_ENDINGS

_JPEG, _PNG, _WEBP = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "


def _files(*folders, file="{}.jpg", count=2):
    return [f"{folder}/{file.format(n)}" for folder in folders for n in range(count)]


def _class_folders(*splits):
    return _files(*(f"{split}/{name}" for split in splits for name in ("cat", "dog")))


def _probe(files, heads=None):
    """Images by their endings, and by `heads`."""
    heads = heads or {}
    by_ending = {True: _JPEG, False: b"text"}
    found = [heads.get(file, by_ending[file.endswith(IMAGE_ENDINGS)]) for file in files]
    return [FileProbe(len(head), head, head) for head in found]


def test_classes_with_the_same_folders_inside_are_a_question():
    parts = ("fold1", "fold2", "fold3"), ("cat", "dog", "bird")
    files = _files(*("/".join(p) for p in itertools.product(*parts)))
    with pytest.raises(ValueError, match=r"are the classes fold1, .*, or bird, cat, dog, which"):
        find_images("d", files, _probe)
    with pytest.raises(ValueError, match="are the classes cat, dog, or train, val, which"):
        find_images("d", _files("cat/train", "cat/val", "dog/train", "dog/val"), _probe)
    with pytest.raises(ValueError, match="are the classes cat, dog, or train, which"):
        find_images("d", _files("cat/train", "dog/train", "dog/val"), _probe)


def test_folders_inside_classes_may_differ_or_be_one_each():
    for files in (
        _files("cat/images", "dog/images"),
        _files("cat/a", "cat/b", "dog/c"),
        _files("cat/a", "cat/b", "dog/a", "dog/b", "dog"),
    ):
        assert find_images("d", files, _probe).classes == ["cat", "dog"]


def test_one_folder_around_the_classes_is_named():
    found = find_images("d", _class_folders("archive"), _probe)
    paths = tuple(f"d/{path}" for _, path in found.images)
    images = LabeledImages("d", tuple(found.classes), ImageFiles(paths, paths))
    with pytest.raises(ValueError, match=r"only one class \(archive\).* did you mean d/archive"):
        check_several_classes(images)


def test_a_class_name_that_is_not_utf8_is_an_error():
    listed = [f"{name}/0.jpg" for name in (os.fsdecode(b"caf\xe9"), "dog")]
    with pytest.raises(ValueError, match=r"caf.*udce9', whose name is not UTF-8.* rename it"):
        find_images("d", listed, _probe)


def test_a_class_name_of_spaces_is_an_error():
    with pytest.raises(ValueError, match="class folder ' ', a name of spaces: rename it"):
        find_images("d", [" /0.jpg", "dog/0.jpg"], _probe)


def test_a_class_name_with_a_line_break_is_an_error():
    with pytest.raises(ValueError, match=r"class folder 'a\\nb', with a line break.* rename it"):
        find_images("d", _files("a\nb", "cat"), _probe)


def test_content_makes_an_image_of_any_ending():
    heads = {"cat/0": _JPEG, "cat/1.dat": _PNG, "dog/0.heic": _JPEG, "dog/a.txt": b"hello"}
    heads["dog/1.jpg"], heads["dog/2.jpg"] = b"<html>", b""
    found = find_images("d", [*heads, "dog/1.webp"], lambda files: _probe(files, heads))
    assert [path for _, path in found.images] == ["cat/0", "cat/1.dat", "dog/0.heic", "dog/1.webp"]
    assert found.notes == (
        "not read, because they are no images of a known format: 1 .txt, "
        "1 .jpg without an image in it, 1 empty (dog/1.jpg, dog/2.jpg)",
    )


def test_files_that_are_not_read_are_counted_by_kind():
    files = [*_files("cat", "dog"), "cat/a.psd", "cat/b.psd", "dog/a.jxl", "dog/b"]
    found = find_images("d", files, lambda f: _probe(f, {"dog/a.jxl": b"\xff\x0a"}))
    assert ": 2 .psd, 1 JPEG XL, 1 without an ending. JPEG XL is not" in found.notes[0]


def test_leftovers_of_operating_systems_are_left_out_and_noted_once():
    leftovers = [
        *(f"cat/._{n}.jpg" for n in range(11)),
        *("cat/.DS_Store", "dog/Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._0.jpg"),
        *("dog/.ipynb_checkpoints/0.jpg", "dog/@eaDir/0.jpg"),
        *("#recycle/cat/9.jpg", "dog/@Recycle/0.jpg"),
    ]
    assert all(map(is_leftover, leftovers))
    found = find_images("d", _files("cat", "dog") + leftovers + [".DS_Store"], _probe)
    assert found.classes == ["cat", "dog"]
    assert len(found.images) == 4
    (note,) = found.notes
    assert note.startswith("left out hidden files, or files of archives and operating systems (19)")


def test_a_class_that_loses_all_images_is_an_error_that_names_it():
    lost = dict.fromkeys(_files("bird", file="{}.jxl", count=3), b"\xff\x0a")
    with pytest.raises(ValueError, match=r"no image of the class bird can be read \(3 JPEG XL\)"):
        find_images("d", [*_files("cat", "dog"), *lost], lambda files: _probe(files, lost))
    found = find_images("d", [*_files("cat", "dog"), "docs/a.txt", "docs/b.md"], _probe)
    assert "no classes, because they have no images: docs" in found.notes


def test_a_folder_without_files_is_named_and_is_no_split():
    found = find_images("d", [*_files("cat", "dog"), "bird/", "fish/.gitkeep", "cat/new/"], _probe)
    assert "no classes, because they have no images: bird, fish" in found.notes
    assert image_folders(["train/cat/0.jpg", "val/", "test/cat/"]) == {"train": {"cat"}}


def test_links_to_folders_are_followed_and_loops_end(photos, tmp_path):
    (tmp_path / "linked").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "linked" / name).symlink_to(photos / name)
    (photos / "cat" / "loop").symlink_to(tmp_path / "linked" / "cat")
    (photos / "dog" / "outer").symlink_to(tmp_path / "linked")
    (images,) = open_folder(str(tmp_path / "linked")).open("all")
    assert images.classes == ("cat", "dog")
    assert len(images) == 4 + 3


def test_a_folder_that_cannot_be_listed_is_an_error(photos, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="dog"):
        open_folder(str(photos))


def test_class_names_of_both_encodings_of_an_accent_are_equal(photos):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for split, name in (("train", composed), ("val", decomposed)):
        (photos / split).mkdir()
        (photos / split / name).symlink_to(photos / "cat")
        (photos / split / "dog").symlink_to(photos / "dog")
    found = open_folder(str(photos))
    assert found.splits == ("train", "validation")
    training, evaluation = found.open("train", "validation")
    assert training.classes == evaluation.classes == (composed, "dog")
    (evaluation,) = found.open("validation")
    assert evaluation.classes == (composed, "dog")


def test_images_in_no_folder_are_noted_or_an_error():
    found = find_images("d", [*_files("cat", "dog"), "0.jpg"], _probe)
    assert found.notes == ("not used, because they are in no class folder: 0.jpg",)
    found = find_images("d", ["0.jpg"], _probe)
    assert (found.images, found.classes) == (((None, "0.jpg"),), None)
    with pytest.raises(ValueError, match="d has no images in folders: it needs one folder per"):
        check_several_classes(LabeledImages("d", None, ImageFiles(("0.jpg",), ("0.jpg",))))
