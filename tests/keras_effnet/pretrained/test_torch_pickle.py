"""``.pth`` files are read without PyTorch, to the values that PyTorch reads."""

import collections

import numpy as np
import pytest

from keras_effnet.pretrained import torch_pickle

torch = pytest.importorskip("torch")
both_formats = pytest.mark.parametrize("archive", [True, False], ids=["archive", "pickles"])


def _save(content, path, archive):
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


KINDS = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


@both_formats
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_pytorchs(tmp_path, archive, kind):
    whole = (torch.arange(24) / 3).reshape(4, 6).to(getattr(torch, kind))
    tensors = collections.OrderedDict(
        whole=whole,
        view=whole.t()[1:3],  # of the same storage
        scalar=whole[1, 1].clone(),
        empty=whole[:0].clone(),
    )
    have = torch_pickle.load(_save({"x": tensors, "epoch": 3}, tmp_path / "x.pth", archive))
    assert have["epoch"] == 3
    assert list(have["x"]) == list(tensors)
    for name, tensor in tensors.items():
        array = have["x"][name].array()
        assert array.dtype == "float32"
        np.testing.assert_array_equal(array, tensor.float().numpy())


@both_formats
def test_parameters_and_attributes_of_a_state_dict_are_read(tmp_path, archive):
    layer = torch.nn.Linear(3, 2)
    path = _save(layer.state_dict(keep_vars=True), tmp_path / "x.pth", archive)
    have = torch_pickle.load(path)
    np.testing.assert_array_equal(have["weight"].array(), layer.weight.detach().numpy())


@both_formats
def test_every_truncated_file_is_an_error(tmp_path, archive):
    path = _save({"a": torch.ones(30), "b": torch.ones(2, 2)}, tmp_path / "x.pth", archive)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(Exception):  # noqa: B017, PT011  # of any kind; the caller names it
            torch_pickle.load(path)


@both_formats
def test_other_objects_are_named_and_not_built(tmp_path, archive):
    path = _save({"a": torch.ones(1), "f": collections.deque()}, tmp_path / "x.pth", archive)
    with pytest.raises(Exception, match=r"holds an object of collections\.deque"):
        torch_pickle.load(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (9**9, 9), (0, 0)),
    ],
)
def test_a_view_outside_its_storage_is_an_error(offset, shape, strides):
    storage = torch_pickle._Storage("FloatStorage")
    storage.fill(np.arange(4, dtype="<f4").tobytes())
    with pytest.raises(ValueError, match="lies outside its 4 numbers"):
        torch_pickle.Tensor(storage, offset, shape, strides).array()
