import json

import numpy as np
import pytest

from keras_effnet.datasets.dataset import open_dataset
from keras_effnet.datasets.manifests import read_manifest


def write_manifest(path, text):
    path.write_text(text)
    return path


def opened(path):
    dataset = open_dataset(path)
    return dataset.open(*dataset.splits)


def test_a_csv_manifest_with_splits(photos):
    path = write_manifest(
        photos / "manifest.csv",
        "image,label,split\ncat/0.JPEG,cat,train\ndog/0.JPEG,dog,train\n"
        f"{photos}/cat/1.png,cat,validation\n",
    )
    training, evaluation = opened(path)
    assert training.classes == evaluation.classes == ("cat", "dog")
    assert training.labels.tolist() == [0, 1]
    assert evaluation.labels.tolist() == [0]
    assert training.stored(1) == (photos / "dog" / "0.JPEG").read_bytes()
    assert training.where(1) == "dog/0.JPEG"


@pytest.mark.parametrize("ending", ["csv", "json"])
@pytest.mark.parametrize(("true", "false"), [(True, False), (1, 0), ("TRUE", "false"), (1.0, 0.0)])
def test_fastais_is_valid_is_a_split(photos, ending, true, false):
    rows = [("cat/0.JPEG", "cat", false), ("dog/0.JPEG", "dog", false), ("cat/1.png", "cat", true)]
    names = ["fname", "path", "label", "is_valid"]
    text = json.dumps([dict(zip(names, ("x", *row))) for row in rows])
    if ending == "csv":
        text = "\n".join([f",{','.join(names)}", *(f"0,x,{a},{b},{c}" for a, b, c in rows)])
    path = write_manifest(photos / f"manifest.{ending}", text)
    assert open_dataset(path).splits == ("train", "validation")
    training, evaluation = opened(path)
    assert training.labels.tolist() == [0, 1]
    assert evaluation.where(0) == "cat/1.png"
    assert training.notes == evaluation.notes == ("columns that are not used: fname",)


def test_columns_of_a_json_file_that_no_row_uses_are_named(photos):
    rows = [
        {"image": "cat/0.JPEG", "file": "x", "label": "cat", "Width": 9},
        {"file": "dog/0.JPEG", "label": "dog", "Source": "web", "unnamed: 0": 1},
    ]
    (images,) = opened(write_manifest(photos / "l.json", json.dumps(rows)))
    assert images.notes == ("columns that are not used: width, source",)


def test_home_folders_and_file_urls_are_paths(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    (photos / "cat" / "2.JPEG").rename(photos / "cat" / "a 2.JPEG")
    images = ["~/cat/0.JPEG", f"file://{photos}/cat/a%202.JPEG", f"FILE:{photos}/dog/0.JPEG"]
    rows = [{"image": image, "label": "x"} for image in images]
    (opened_images,) = opened(write_manifest(photos.parent / "l.json", json.dumps(rows)))
    assert [opened_images.where(i) for i in range(3)] == [
        f"{photos}/{name}" for name in ("cat/0.JPEG", "cat/a 2.JPEG", "dog/0.JPEG")
    ]


def test_images_that_do_not_exist_come_with_a_hint(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    for image, message in (
        ("file://photos/a.jpg", "line 2 has the URL file://photos/a.jpg, of the host 'photos'"),
        ("https://x.org/a.jpg", "URLs are not downloaded"),
        ("cat/0", r"photos/cat/0\.JPEG exists: add the endings"),
        ("photos/cat/0.JPEG", "relative paths start in the folder of the manifest"),
        ("photos/cat/99.JPEG", r"not exist: .*photos/photos/cat/99.JPEG$"),
    ):
        path = write_manifest(photos / "l.csv", f"image,label\n{image},x\n")
        with pytest.raises(ValueError, match=message):
            opened(path)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_manifest_with_several_labels_per_image(photos, ending):
    rows = [
        ("cat/0.JPEG", ["furry", "cat"]),
        ("dog/0.JPEG", ["dog"]),
        ("dog/2.JPEG", ["dog", "furry"]),
    ]
    text = json.dumps([{"image": image, "label": labels} for image, labels in rows])
    if ending == "csv":
        text = "image,label\n" + "\n".join(f"{image},{'|'.join(labels)}" for image, labels in rows)
    (images,) = opened(write_manifest(photos / f"manifest.{ending}", text))
    assert images.classes == ("cat", "dog", "furry")
    assert images.labels.dtype == np.int32
    assert images.labels.tolist() == [[0, 2], [1, -1], [1, 2]]
    assert [images.labels_of(i) for i in range(3)] == [(0, 2), (1,), (1, 2)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "photo,label\na.jpg,1\n", "has the columns photo, label and lacks image"),
        ("l.csv", "image,label\n", "has no rows"),
        ("l.csv", "image,label,is_valid\na,x,maybe\n", "line 2 has is_valid 'maybe'; accepted"),
        ("l.csv", "image,label,is_valid\na,x,true\nb,x,\n", "line 3 has the split ''; accepted"),
        ("l.csv", "image,label,is_valid\na,x,False\nb,x,0\n", "but only training rows"),
        ("l.csv", "image,label\na.jpg,\n", r"line 2 \(a.jpg\) needs a label"),
        ("l.csv", "image,label\n,1\n", "line 2 has no image"),
        ("l.csv", "image,label\na.jpg,1\nb.jpg,0\n", "2 files that do not exist: .*a.jpg"),
        ("l.csv", "image,label\na.jpg,x\n./a.jpg,y\n", "has a.jpg more than once"),
        ("l.csv", "image,label,split\na.jpg,x,train\na.jpg,x,val\n", "a.jpg in both splits"),
        ("l.csv", "image,label,split\na.jpg,x,half\n", "the split 'half'; accepted: train"),
        ("l.csv", "image,label,split\na.jpg,x,train\nb.jpg,y,train\n", "but only training rows"),
        ("l.json", "{", "is not valid JSON"),
        ("l.json", '{"image": "a"}\n{"image": "b"}', "one object on each line is a .jsonl file"),
        ("l.jsonl", '{"image": "a.jpg", "label": 1}\n{"image": "b"}', "line 2 lacks label"),
        ("l.jsonl", '{"image": "a", "label": 1},\n', "line 1 is not valid JSON.* without a comma"),
        ("l.jsonl", '\n{"image": "a", "label": 1}\n\n{"image"\n', "line 4 is not valid JSON"),
        ("l.jsonl", '\n\n{"image": "a"}\n', "line 3 lacks label"),
        ("l.csv", "image,label,Label\na.jpg,x,y\n", "has several columns 'label': rename those"),
        ("l.json", "{}", "must be a JSON list"),
        ("l.json", '[{"image": "a.jpg"}]', "object 0 lacks label"),
        ("l.json", '[{"image": "a.jpg", "label": -1}]', "has the label -1: class numbers start"),
        (
            "l.json",
            '[{"image": "a.jpg", "label": [1, "x"]}]',
            "mixes labels that are names and",
        ),
        ("l.txt", "a.jpg 1", "has an unknown type"),
        (
            "l.csv",
            'image,label\na.jpg,"cat\nb.jpg,dog\n',
            "line 3 has a line break .* double quote",
        ),
        (
            "l.csv",
            'image,label\n"a.jpg,cat\nb.jpg,dog"\n',
            "line 3 has a line break .* double quote",
        ),
        (
            "l.csv",
            'image,label\na.jpg,"' + "b.jpg,dog\n" * 20_000,
            r"is not valid CSV \(field larger .*double quote",
        ),
        ("l.csv", "image,label\na.jpg,salt, pepper\n", "line 2 has more cells .* contains ','"),
        ("l.csv", "image,label\na.jpg,0\nb.jpg,nan\n", "the label 'nan' and otherwise numbers"),
        ("l.csv", "image,label\na.jpg,-1\nb.jpg,1\n", "the label '-1' and otherwise numbers"),
        ("l.csv", "image,label\na.jpg,0.5\nb.jpg,1\n", "the label '0.5' and otherwise numbers"),
        ("l.csv", "image,label\na.jpg,20261127\n", "has the label 20261127: labels that are"),
        ("l.csv", f"image,label\na.jpg,{'9' * 400}\n", "has the label 999.*labels that are"),
        (
            "l.json",
            '[{"image": "a.jpg", "label": 20261127}]',
            "has the label 20261127: labels that",
        ),
        ("l.json", '[{"image": "a.jpg", "label": NaN}]', "needs a label that is a name or a class"),
        ("l.json", '[{"image": "a.jpg", "label": 0.5}]', "needs a label that is a name or a class"),
        ("l.json", "[" * 100_000, "is not valid JSON"),
        (
            "l.json",
            '[{"image": "a.jpg", "label": [1, 0]}, {"image": "b.jpg", "label": [0, 1]}]',
            "as one-hot labels are: give the numbers of the classes",
        ),
        ("l.csv", "image,label\na.jpg,0|1\nb.jpg,1|0\n", "as one-hot labels are"),
    ],
)
def test_bad_manifests_are_errors_that_name_the_row(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        opened(write_manifest(tmp_path / name, text))


@pytest.mark.parametrize(
    "content",
    [
        "image,label,split\ncat/0.JPEG,\u00e4,train\ndog/0.JPEG,b,val\n".encode("utf-8-sig"),
        "Image;Label;Split\r\ncat/0.JPEG;\u00e4;Train\r\ndog/0.JPEG;b;Valid\r\n;;\r\n".encode(),
        "sep=;\r\nimage;label;split\r\ncat/0.JPEG;\u00e4;TRAIN\r\ndog/0.JPEG;b;dev\r\n".encode(),
        "image\tlabel\tsplit\ncat/0.JPEG\t\u00e4\ttrain\ndog/0.JPEG\tb\ttest\n".encode("utf-16"),
        "image,label,split\ncat/0.JPEG,\u00e4,train\ndog/0.JPEG,b,test\n".encode("utf-16-le"),
        "File_Name,n,Class,set\ncat\\0.JPEG,1,\u00e4,tr\ndog/0.JPEG ,2,b,te\n".encode(),
        '"image","label","split"\n"cat/0.JPEG","\u00e4","train"\n"dog/0.JPEG","b","val"'.encode(),
    ],
    ids=["byte order mark", "semicolons", "sep", "utf-16", "no mark", "other names", "quotes"],
)
def test_files_of_excel_are_read(tmp_path, content):
    path = tmp_path / "l.csv"
    path.write_bytes(content)
    rows, classes, has_split, _ = read_manifest(str(path))
    assert [(row.path, row.is_evaluation) for row in rows] == [
        ("cat/0.JPEG", False),
        ("dog/0.JPEG", True),
    ]
    assert classes == ["b", "\u00e4"]
    assert has_split


def test_an_encoding_that_is_not_utf_8_is_an_error(tmp_path):
    (tmp_path / "l.csv").write_bytes("image,label\na.jpg,\u00e4\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"is not UTF-8 .* in Excel choose `CSV UTF-8`"):
        read_manifest(str(tmp_path / "l.csv"))


def test_a_json_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "l.json").write_bytes(b'\xef\xbb\xbf[{"image": "a.jpg", "label": "x"}]')
    assert read_manifest(str(tmp_path / "l.json"))[1] == ["x"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image,label\na.jpg,2.0\nb.jpg,0\n"),
        ("l.tsv", "image\tlabel\na.jpg\t2\nb.jpg\t0\n"),
        ("l.csv", "image,label\na.jpg,2,\nb.jpg,0,\n"),
        ("l.json", '[{"Image": "a.jpg", " Label": 2.0}, {"image": "b.jpg", "label": 0.0}]'),
        ("l.jsonl", '{"image": "a.jpg", "label": 2}\n\n{"path": "b.jpg", "label": [0]}\n'),
    ],
)
def test_labels_that_are_numbers_are_class_numbers(tmp_path, name, text):
    rows, classes, has_split, _ = read_manifest(str(write_manifest(tmp_path / name, text)))
    assert [row.labels for row in rows] == [(2,), (0,)]
    assert (classes, has_split) == (["0", "1", "2"], False)


def test_json_names_may_have_line_separators_and_spaces_around_them(tmp_path):
    text = '{"image": "a.jpg", "label": " x\u2028"}\r\n{"image": "b\u2028.jpg", "label": "x"}\n'
    (tmp_path / "l.jsonl").write_bytes(text.encode())
    rows, classes, *_ = read_manifest(str(tmp_path / "l.jsonl"))
    assert classes == ["x"]
    assert [row.path for row in rows] == ["a.jpg", "b\u2028.jpg"]
