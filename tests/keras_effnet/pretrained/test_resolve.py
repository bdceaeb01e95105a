"""Pretrained weights by name or path: download, check, convert, load."""

import dataclasses
import io
import tarfile

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing, preprocessing
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.download import DownloadError
from keras_effnet.pretrained.input_spec import InputSpec
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS, PretrainedWeights
from keras_effnet.pretrained.resolve import resolve_weights
from keras_effnet.variants import Normalization

tensorflow_only = pytest.mark.tensorflow_only("reads TensorFlow's checkpoints")

URL = "https://storage.googleapis.com/cloud/tiny.tar.gz"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror that is a folder, and an empty cache."""
    folder = tmp_path / "server"
    (folder / "cloud").mkdir(parents=True)
    monkeypatch.setenv("KERAS_EFFNET_MIRROR", folder.as_uri())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("keras_effnet.pretrained.download.time.sleep", lambda seconds: None)
    return folder / "cloud"


@pytest.fixture
def row(tiny, monkeypatch):
    """Pretrained weights of TINY that expect other images than the variant."""
    row = PretrainedWeights(
        variant=tiny.name,
        name="own",
        url=URL,
        md5=None,
        notop_url=None,
        notop_md5=None,
        classes=1000,
        preprocessing=Preprocessing(48, 0.875, "bicubic"),
        normalization=Normalization((127.5,) * 3, (127.5,) * 3),
        top1=50.0,
        source="this test",
    )
    monkeypatch.setitem(PRETRAINED_WEIGHTS, (tiny.name, "own"), row)
    return row


@pytest.fixture
def theirs(keras, tiny, row, tame):
    model = create_model(
        dataclasses.replace(tiny, normalization=row.normalization), input_shape=(48, 48, 3)
    )
    tame(model)
    return model


@pytest.fixture
def put(server, tiny, theirs, tmp_path):
    """put(): writes the archive of a real checkpoint, with EMA weights beside stale weights."""

    def write(name="tiny.tar.gz", *, model=theirs, copies=1):
        import tensorflow as tf

        from keras_effnet.pretrained import tf_checkpoint
        from keras_effnet.pretrained.layer_names import weighted_layers

        tensors = {"global_step": np.int64(1)}
        for layer in weighted_layers(plan(tiny), tf_checkpoint.NAMES):
            variables = tf_checkpoint._VARIABLES[layer.kind]
            for variable, value in zip(variables, model.get_layer(layer.name).get_weights()):
                name_ = f"tiny/{layer.source_name}/{variable}"
                tensors[name_] = value * 0
                tensors[name_ + "/ExponentialMovingAverage"] = value
        with tarfile.open(server / name, "w:gz") as tar:
            for copy in range(copies):
                prefix = str(tmp_path / f"model{copy}.ckpt")
                tf.raw_ops.SaveV2(
                    prefix=prefix,
                    tensor_names=list(tensors),
                    shape_and_slices=[""] * len(tensors),
                    tensors=list(tensors.values()),
                )
                for file in tmp_path.glob(f"model{copy}.ckpt*"):
                    tar.add(file, f"tiny/{file.name}")

    return write


@pytest.mark.every_stack
@tensorflow_only
def test_an_archive_is_downloaded_converted_and_loaded(
    put, server, theirs, tiny, row, images, monkeypatch
):
    put()
    model = create_model(tiny, weights="own")
    assert preprocessing(model) == row.preprocessing
    assert model.input_shape == (None, 48, 48, 3)
    np.testing.assert_allclose(np.array(model(images(48))), np.array(theirs(images(48))), atol=1e-6)
    # the converted file is kept: the second call needs neither network nor archive
    monkeypatch.setenv("KERAS_EFFNET_OFFLINE", "1")
    (server / "tiny.tar.gz").unlink()
    again = create_model(tiny, weights="auto")
    for a, b in zip(again.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
def test_the_converted_files_path_gives_the_same_model(put, theirs, tiny, row, images, tmp_path):
    put()
    named = create_model(tiny, weights="own")
    (path,) = (tmp_path / "home").rglob("tiny.h5")
    by_path = create_model(tiny, weights=path)
    assert preprocessing(by_path) == preprocessing(named) == row.preprocessing
    np.testing.assert_array_equal(np.array(by_path(images(48))), np.array(named(images(48))))


@tensorflow_only
def test_one_archive_serves_no_top_and_other_classes(put, tiny):
    put()
    without_top = create_model(tiny, weights="own", include_top=False)
    with pytest.warns(UserWarning, match="classifier of 7 classes starts at random"):
        seven = create_model(tiny, weights="own", classes=7)
    for a, b in zip(without_top.get_weights(), seven.get_weights()):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
def test_a_modified_converted_file_is_converted_again(put, tiny, tmp_path):
    put()
    want = create_model(tiny, weights="own").get_weights()
    (path,) = (tmp_path / "home").rglob("tiny.h5")
    path.write_bytes(b"tampered")
    for a, b in zip(create_model(tiny, weights="own").get_weights(), want):
        np.testing.assert_array_equal(a, b)


@tensorflow_only
def test_a_failed_download_is_an_error(server, row, tiny, keras):
    with pytest.raises(DownloadError, match=r"tiny\.tar\.gz.*by hand"):
        create_model(tiny, weights="own")


@tensorflow_only
def test_an_archive_of_another_network_names_the_differences(put, server, tiny, row, tmp_path):
    put()
    other = dataclasses.replace(tiny, name="other", stages=tiny.stages[:1])
    PRETRAINED_WEIGHTS["other", "own"] = dataclasses.replace(row, variant="other")
    try:
        with pytest.raises(ValueError, match=r"does not hold other.*left over: .*blocks_1"):
            create_model(other, weights="own")
    finally:
        del PRETRAINED_WEIGHTS["other", "own"]
    assert not list((tmp_path / "home").rglob("tiny.h5"))
    assert not list((tmp_path / "home").rglob(".unpacking*"))


@tensorflow_only
def test_an_archive_of_two_checkpoints_is_rejected(put, tiny):
    put(copies=2)
    with pytest.raises(ValueError, match="holds 2 checkpoints"):
        create_model(tiny, weights="own")


@tensorflow_only
def test_a_malicious_archive_is_rejected_before_writing(server, row, tiny, tmp_path):
    with tarfile.open(server / "tiny.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("../../escaped.txt")
        tar.addfile(info, io.BytesIO(b""))
    with pytest.raises(ValueError, match="leads out of its folder"):
        create_model(tiny, weights="own")
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    ("variant", "weights", "message"),
    [
        ("efficientnet-b0", "imagenett", "Did you mean 'imagenet'"),
        ("efficientnet-b0", "nothing/here.h5", "no file has that name"),
        ("efficientnet-l2", "imagenet", "2 released weights"),
        ("efficientnet-b0", True, "weights True is neither"),
        ("efficientnet-b0", 5, "weights 5 is neither"),
    ],
)
def test_errors_for_unknown_weights_say_what_is_accepted(keras, variant, weights, message):
    with pytest.raises(ValueError, match=message):
        create_model(variant, weights=weights)


def test_resolving_downloads_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    resolved = resolve_weights("efficientnet-b8", "auto")
    row = PRETRAINED_WEIGHTS["efficientnet-b8", "advprop"]
    assert (resolved.released, resolved.path) == (row, None)
    assert resolved.input_spec == InputSpec(row.preprocessing, row.normalization)
    assert resolve_weights("efficientnet-b8", None).input_spec == InputSpec(None, None)
    assert not any(tmp_path.iterdir())
