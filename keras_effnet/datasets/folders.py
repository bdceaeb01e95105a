"""Folders of image files: their splits, classes and images, and the files that are left out."""

from __future__ import annotations

import collections
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.atomic_write import encoded
from keras_effnet.datasets.file_probe import FileProbe, probe_files
from keras_effnet.datasets.file_system import LOCAL, FileSystem
from keras_effnet.datasets.labeled_images import ImageFiles, LabeledImages
from keras_effnet.datasets.splits import ALL, TRAINING, find_splits, some, split_of, splits_below
from keras_effnet.image_decoding import IMAGE_ENDINGS, readable_formats, unreadable_reason

# Left behind by archives and operating systems, beside all names that start with a dot.
_LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found", "__pycache__", "#recycle", "@recycle"),
}
_DOCUMENTS = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".html", ".yaml", ".yml", ".pdf", ".log"),
    *(".py", ".ipynb", ".sh"),
)
_LFS_POINTER = b"version https://git-lfs."
_NO_IMAGES = (*_DOCUMENTS, "/")  # the latter of empty folders


@dataclass(frozen=True)
class FoundImages:
    """The images of a folder, and what was left out."""

    images: tuple[tuple[str | None, str], ...]  # (class or None, path relative to the folder)
    probes: tuple[FileProbe, ...]  # of each image
    notes: tuple[str, ...]  # one line for each kind of file that is not used

    @property
    def classes(self) -> list[str] | None:
        """The class names, sorted; None without class folders."""
        names = {name for name, _ in self.images}
        return None if None in names else sorted(names)


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """A folder of images: of class folders, of splits with class folders, or of images alone."""

    folder: str
    listed: tuple[str, ...]  # all files, relative to the folder
    split_folders: Mapping[str, str]  # {split: path of its classes in it}; empty without splits
    notes: tuple[str, ...]
    files: FileSystem = LOCAL

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the folder; only ALL if it has none."""
        return tuple(self.split_folders) or (ALL,)

    def open(self, *splits: str) -> list[LabeledImages]:
        """The images of splits, labeled by the classes of the training split if there is one.

        Raises ``ValueError`` for a split with other classes, and as :func:`find_images` does.
        """
        opened = [self._find(split) for split in splits]
        classes = self._training_classes(dict(zip(splits, (found for _, found in opened))))
        return [self._labeled(folder, found, classes) for folder, found in opened]

    def _find(self, split):
        inside = self.split_folders.get(split, "")
        folder = os.path.join(self.folder, inside) if inside else self.folder
        listed = _inside(self.listed, inside)
        return folder, find_images(folder, listed, _prober(folder, self.files))

    def _training_classes(self, found):
        if TRAINING not in self.split_folders:
            return None
        if TRAINING in found:
            return found[TRAINING].classes
        listed = _inside(self.listed, self.split_folders[TRAINING])
        return sorted({_class_of(name) for name in image_folders(listed)})

    def _labeled(self, folder, found, classes):
        notes, labels = (*self.notes, *found.notes), None
        if found.classes is None:
            classes = None
        elif classes is None:
            classes = found.classes
        elif missing := sorted(set(classes) - set(found.classes)):
            notes += (f"{folder} has no images of the classes {some(missing)}",)
        if classes is not None:
            if other := sorted(set(found.classes) - set(classes)):
                raise ValueError(
                    f"{folder} has classes that the training images do not have: {some(other)} "
                    f"(they have {some(classes)})"
                )
            numbers = {name: n for n, name in enumerate(classes)}
            labels = np.array([numbers[name] for name, _ in found.images], np.int32)
            classes = tuple(classes)
        paths = tuple(os.path.join(folder, path) for _, path in found.images)
        storage = ImageFiles(paths, paths, self.files, found.probes)
        return LabeledImages(folder, classes, storage, labels, notes)


def open_folder(folder: str, files: FileSystem = LOCAL) -> FolderDataset:
    """The :class:`FolderDataset` of a folder; ``ValueError`` as :func:`find_splits` raises."""
    listed = list_files(folder, files)
    below = splits_below(folder, image_folders(listed))
    if below:
        folder, listed = os.path.join(folder, below), _inside(listed, below)
    splits, notes = find_splits(folder, image_folders(listed))
    splits = {split: _around_classes(name, _inside(listed, name)) for split, name in splits.items()}
    empty = {path.split("/")[0] for path in _empty_folders(listed)} - set(image_folders(listed))
    if splits and (unused := sorted(name for name in empty if split_of(name))):
        notes += (f"not used, because they have no images: {some(unused)}",)
    return FolderDataset(folder, tuple(listed), splits, notes, files)


def _inside(listed, folder):
    """The files of a list that are in a folder of it, relative to that."""
    start = f"{folder}/" if folder else ""
    return [file[len(start) :] for file in listed if file.startswith(start)]


def _around_classes(split, listed):
    """The folder of the classes of a split: itself, or the only folder in it that has folders."""
    inside = image_folders(listed)
    (name, folders), *others = inside.items() or [("", {""})]
    return f"{split}/{name}" if not others and len(folders - {""}) > 1 else split


def open_images(folder: str, files: FileSystem = LOCAL) -> LabeledImages:
    """All images in a folder and its subfolders, sorted and without labels.

    Raises ``ValueError`` for a folder without images.
    """
    probes, kinds, leftovers = _sort_out(list_files(folder, files), _prober(folder, files))
    if not probes:
        instead = f", but {_counts(kinds)}" if kinds else ""
        raise ValueError(f"{folder} contains no images ({', '.join(readable_formats())}){instead}")
    names = sorted(probes)
    paths = tuple(os.path.join(folder, name) for name in names)
    storage = ImageFiles(paths, paths, files, tuple(probes[name] for name in names))
    return LabeledImages(folder, None, storage, None, _notes(kinds, leftovers))


def list_files(folder: str, files: FileSystem = LOCAL) -> list[str]:
    """The paths of all files of a folder, relative to it, with slashes; those of empty folders end
    with one.
    """
    listed = []
    for root, folders, names in files.traverse(folder):
        inside = os.path.relpath(root, folder).replace(os.sep, "/")
        if not folders and not names and inside != ".":
            listed.append(f"{inside}/")
        listed += names if inside == "." else [f"{inside}/{name}" for name in names]
    return listed


def is_leftover(path: str) -> bool:
    """Whether a relative path is hidden, or left behind by an archive or an operating system.

    >>> [is_leftover(path) for path in ("cat/._0.jpg", "cat/Thumbs.db", "cat/0.jpg")]
    [True, True, False]
    """
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in path.split("/"))


def find_images(
    folder: str, files: Sequence[str], probe: Callable[[list[str]], list[FileProbe]]
) -> FoundImages:
    """The images among the `files` of a folder, and their classes: its folders.

    A folder with images and no folders of images has no classes. The content of a file decides
    whether it is an image: `probe` returns the ends of files. Raises ``ValueError`` for no images,
    for a class none of whose files can be read, and for folders that may be something else than
    classes.
    """
    probes, kinds, leftovers = _sort_out(files, probe)
    strays = sorted(file for file in probes if "/" not in file)
    images = tuple(sorted((_class_of(f), f) for f in probes if "/" in f))
    classes = {name for name, _ in images}
    lost = collections.defaultdict(dict)
    for file, kind in kinds.items():
        if "/" in file and _class_of(file) not in classes:
            lost[_class_of(file)][file] = kind
    _check_lost(folder, lost)
    without_images = {_class_of(f) for f in (*leftovers, *_empty_folders(files))} | set(lost)
    without_images = [name for name in without_images - classes if not is_leftover(name)]
    if not probes:
        raise ValueError(
            f"{folder} has no images: it needs one folder per class with "
            f"{'/'.join(IMAGE_ENDINGS)} files"
        )
    _check_classes(folder, images, sorted(classes))
    in_classes = {file: kind for file, kind in kinds.items() if "/" in file}
    notes = _notes(in_classes if images else kinds, leftovers)
    if without_images:
        notes += (f"no classes, because they have no images: {some(sorted(without_images))}",)
    if images and strays:
        notes += (f"not used, because they are in no class folder: {some(strays)}",)
    images = images or tuple((None, file) for file in strays)
    return FoundImages(images, tuple(probes[file] for _, file in images), notes)


def _class_of(path):
    """The folder at the top of a relative path; macOS and Linux encode accents differently."""
    return unicodedata.normalize("NFC", path.split("/")[0])


def _empty_folders(files):
    return [path for path in files if path.endswith("/")]


def check_several_classes(images: LabeledImages) -> None:
    """Raises ``ValueError`` unless the images of a folder have at least two classes."""
    folder, classes = images.name, images.classes
    if classes is None:
        raise ValueError(
            f"{folder} has no images in folders: it needs one folder per class with "
            f"{'/'.join(IMAGE_ENDINGS)} files"
        )
    if len(classes) < 2:
        paths = [os.path.relpath(path, folder) for path in images.storage.paths]
        inner = image_folders(path.replace(os.sep, "/") for path in paths)[classes[0]] - {""}
        raise ValueError(
            f"{folder} has images of only one class ({classes[0]}); it needs one folder per class "
            "and at least two classes"
            + (f": did you mean {os.path.join(folder, classes[0])}?" if len(inner) > 1 else "")
        )


def _sort_out(files, probe):
    """({image: its probe}, {file that is not read: its kind}, leftovers) of relative paths."""
    files = [file for file in files if not file.endswith("/")]
    present = [file for file in files if not is_leftover(file)]
    leftovers = [file for file in files if is_leftover(file) and "/" in file]
    documents = {
        f: os.path.splitext(f)[1].lower() for f in present if f.lower().endswith(_DOCUMENTS)
    }
    probes = {file: None for file in present if file not in documents}
    probes = dict(zip(probes, probe(list(probes))))
    kinds = {file: _kind(file, p) for file, p in probes.items() if not p.is_readable}
    return {f: p for f, p in probes.items() if f not in kinds}, {**documents, **kinds}, leftovers


def _kind(file, probe):
    """What a file is that cannot be read."""
    if probe.size < 0:
        return "pipe or dangling link"
    if probe.format or not probe.size:
        return probe.format or "empty"
    if probe.head.startswith(_LFS_POINTER):
        return "Git LFS pointer, whose image git lfs pull downloads"
    ending = os.path.splitext(file)[1].lower() or "without an ending"
    return f"{ending} without an image in it" if ending in IMAGE_ENDINGS else ending


def _notes(kinds, leftovers):
    notes = ()
    if leftovers:
        notes += (
            f"left out hidden files, or files of archives and operating systems ({len(leftovers)})"
            f": {some(leftovers)}",
        )
    if kinds:
        known = [name for name in ("HEIC", "JPEG XL", "AVIF") if name in kinds.values()]
        reasons = "".join(f". {unreadable_reason(name)}" for name in known)
        named = sorted(file for file in kinds if file.lower().endswith(IMAGE_ENDINGS))
        notes += (
            f"not read, because they are no images of a known format: {_counts(kinds)}"
            f"{f' ({some(named)})' if named else ''}{reasons}",
        )
    return notes


def _prober(folder, files):
    """A function from relative paths to the :class:`FileProbe` of each file."""
    return lambda names: probe_files([os.path.join(folder, name) for name in names], files)


def image_folders(files):
    """{folder at the top: {folder in it, or "" for images directly in it}} of image files."""
    inside = collections.defaultdict(set)
    for file in files:
        parts = file.split("/")
        if len(parts) > 1 and not is_leftover(file) and not file.lower().endswith(_NO_IMAGES):
            inside[parts[0]].add(parts[1] if len(parts) > 2 else "")
    return dict(sorted(inside.items()))


def _check_lost(folder, lost):
    for name, kinds in sorted(lost.items()):
        if not all(kind in _DOCUMENTS for kind in kinds.values()):
            raise ValueError(
                f"{folder}: no image of the class {name} can be read ({_counts(kinds)}): convert "
                f"them to JPEG or PNG, or move {name} out of the folder. Read are "
                f"{', '.join(readable_formats())}"
            )


def _check_classes(folder, images, classes):
    for name in classes:
        if "\n" in name or "\r" in name:
            raise ValueError(
                f"{folder} has the class folder {name!r}, with a line break in its name, which "
                "label files cannot have: rename it"
            )
        if not name.strip():
            raise ValueError(f"{folder} has the class folder {name!r}, a name of spaces: rename it")
        if encoded(name) != os.fsencode(name):
            raise ValueError(
                f"{folder} has the class folder {encoded(name).decode()!r}, whose name is not "
                "UTF-8, as label files must be: rename it"
            )
    inside = image_folders([path for _, path in images])
    shared = set.intersection(*inside.values()) if len(classes) > 1 else set()
    is_split = any(split_of(name) for name in shared)
    if (len(shared) > 1 or is_split) and not any("" in folders for folders in inside.values()):
        raise ValueError(
            f"{folder}: are the classes {some(classes)}, or {some(sorted(shared))}, which each "
            f"of them contains? The folders directly in {folder}, or in its train and validation, "
            "must be the classes and their images must not be sorted into the same folders again; "
            "a CSV manifest takes any layout"
        )


def _counts(kinds: Mapping[str, str]):
    """The number of each kind of {file: kind}: "3 .txt, 1 HEIC"."""
    return ", ".join(f"{n} {kind}" for kind, n in collections.Counter(kinds.values()).most_common())
