import argparse
import dataclasses
import importlib.util
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_effnet import variants

tf = pytest.importorskip("tensorflow")

EXAMPLE = pathlib.Path(__file__).parent.parent.parent / "examples" / "transfer.py"


@pytest.fixture
def transfer():
    spec = importlib.util.spec_from_file_location("transfer", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shards(tmp_path):
    """Ten classes of grey squares, ten images each, in the format of CIFAR-10's shards."""
    random = np.random.default_rng(0)
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for i in range(100):
                image = (20 * (i % 10) + random.integers(0, 20, (32, 32, 3))).astype(np.uint8)
                jpeg = io.BytesIO()
                Image.fromarray(image).save(jpeg, "JPEG")
                encoded = tf.train.BytesList(value=[jpeg.getvalue()])
                label = tf.train.Int64List(value=[i % 10 + 1])
                feature = {
                    "image/encoded": tf.train.Feature(bytes_list=encoded),
                    "image/class/label": tf.train.Feature(int64_list=label),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    (tmp_path / "labels.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    return tmp_path


def test_selected_classes_are_disjoint_and_counted_from_0(transfer, shards):
    classes, train_set, _ = transfer.read(shards)
    for selected, names in (
        (transfer.SOURCE_CLASSES, ["class0", "class1", "class2", "class3", "class4"]),
        (transfer.TARGET_CLASSES, ["class5", "class6", "class7", "class8", "class9"]),
    ):
        selected_names, images, labels = transfer.select_classes(classes, *train_set, selected)
        assert selected_names == names
        assert images.shape == (50, 32, 32, 3)
        assert sorted(set(labels)) == [0, 1, 2, 3, 4]
        grey = 20 * (selected[0] + 2) + 9.5
        np.testing.assert_allclose(images[labels == 2].mean(), grey, atol=2)
    few = transfer.sample(labels, 4, seed=1)
    assert np.bincount(labels[few]).tolist() == [4] * 5
    assert not np.array_equal(few, transfer.sample(labels, 4, seed=2))


@pytest.fixture
def arguments(shards, tmp_path, monkeypatch, tiny):
    monkeypatch.setitem(variants.NETWORKS, "tiny", tiny)
    flags = ["--model=tiny", "--image_size=34", "--epochs=2", "--seeds=1", "--images_per_class=4"]
    return [f"--data={shards}", f"--out={tmp_path / 'out'}", "--device=cpu", *flags]


@pytest.mark.slow
def test_scratch_and_transfer_are_compared(transfer, arguments, tmp_path, capsys, monkeypatch):
    from tpu_train.recipes import table

    recipe = dataclasses.replace(table.find_recipe("photos"), augment="none")
    monkeypatch.setattr(table, "find_recipe", {"photos": recipe}.get)
    assert transfer.main([*arguments, "--pretrain_epochs=1"]) == 0
    output = capsys.readouterr().out
    assert "pretrained: " in output
    assert (tmp_path / "out" / "pretrained" / "model.keras").is_file()
    assert "class5, class6, class7, class8, class9: 4 training images per class, 50 test" in output
    scores = json.loads((tmp_path / "out" / "transfer.json").read_text())["accuracy"]
    assert set(scores) == {"from scratch", "frozen backbone", "fine-tuned"}
    assert all(len(v) == 1 and 0 <= v[0] <= 1 for v in scores.values())


def test_a_backbone_of_an_earlier_run_is_reused(transfer, tmp_path, capsys):
    pretrained = tmp_path / "pretrained" / "model.keras"
    pretrained.parent.mkdir()
    pretrained.write_bytes(b"model")
    options = argparse.Namespace(out=str(tmp_path))
    assert transfer.pretrain(options, *[None] * 6) == pretrained
    assert f"reusing {pretrained}" in capsys.readouterr().out


def test_missing_data_is_an_error_with_the_download(transfer, tmp_path, capsys):
    assert transfer.main([f"--data={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "no TFRecord shards" in error
    assert "cifar-10-python.tar.gz" in error
    assert transfer.main([f"--data={tmp_path}", "--seeds=0"]) == 2
    assert "--seeds must be 1 or more, got 0" in capsys.readouterr().err
    assert transfer.main([f"--data={tmp_path}", "--seed=1"]) == 2
    assert "Did you mean '--seeds'?" in capsys.readouterr().err
