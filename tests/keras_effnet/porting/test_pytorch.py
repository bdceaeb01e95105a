"""The networks of PyTorch projects are ported with equal outputs, and exported again.

Damaged, foreign or dangerous files are rejected."""

import json
import os
import pickle
import sys

import numpy as np
import pytest

from keras_effnet.network_plan import plan
from keras_effnet.porting import PROJECTS, export, port
from keras_effnet.porting.reference_models import keras_outputs, random_images
from keras_effnet.pretrained.package_files import LUKEMELAS
from keras_effnet.pretrained.pytorch_projects import TIMM, TORCHVISION, find_network
from keras_effnet.pretrained.state_dicts import read
from tools import foreign

tensorflow_only = pytest.mark.tensorflow_only("JAX compiles every operation of a whole network")
NETWORKS = [("timm", "tf_efficientnet_lite0")]
# Every project once; V2 has other names, and stages without squeeze-excite.
SLOW = [
    ("efficientnet-lite-pytorch", "efficientnet-lite0"),
    ("lukemelas", "efficientnet-b0"),
    ("timm", "tf_efficientnetv2_b0"),
    ("torchvision", "efficientnet_b0"),
]
EXHAUSTIVE = [
    ("efficientnet-lite-pytorch", "efficientnet-lite2"),
    ("lukemelas", "efficientnet-b3"),
    ("timm", "tf_efficientnet_b0"),
    ("timm", "efficientnet_b0"),
    ("timm", "tf_efficientnet_b3"),
    ("timm", "efficientnet_b2"),
    ("timm", "efficientnet_lite0"),
    ("timm", "tf_efficientnet_lite4"),
    ("timm", "tf_efficientnetv2_s"),
    ("torchvision", "efficientnet_b1"),
    ("torchvision", "efficientnet_b5"),
    ("torchvision", "efficientnet_v2_s"),
]
NETWORKS += [pytest.param(*network, marks=pytest.mark.slow) for network in SLOW]
NETWORKS += [pytest.param(*network, marks=pytest.mark.exhaustive) for network in EXHAUSTIVE]


def _needs(source):
    if source in foreign.LUKEMELAS_PACKAGES:
        pytest.importorskip(foreign.LUKEMELAS_PACKAGES[source])


@tensorflow_only
@pytest.mark.parametrize(("source", "name"), NETWORKS)
def test_outputs_match_the_package(keras, torch_projects, tmp_path, source, name):
    """Random weights and running statistics; compared after every block and at the logits."""
    path = tmp_path / "model.safetensors"
    _needs(source)
    foreign.save_torch(foreign.torch_network(source, name), path)
    model, report = port(path, name, source=source, image_size=64)
    assert report.mapped == report.total == sum(len(layer.weights) for layer in model.layers)
    places = [d.place for d in report.differences]
    assert places[0] == "stem"
    assert places[-2:] == ["top", "logits"]
    assert len(places) == len(plan(find_network(PROJECTS[source], name)[1]).blocks) + 3
    assert report.worst.relative <= 1e-4, str(report)
    assert all(
        d.scale > 0.05 for d in report.differences
    )  # otherwise the comparison would be meaningless
    outputs = np.array(model(random_images(64)))
    assert outputs.shape == (2, 1000)
    assert np.abs(outputs[0] / outputs[1] - 1).max() > 1e-3  # the outputs depend on the image


@tensorflow_only
@pytest.mark.slow
def test_epsilon_and_padding_change_the_outputs(keras, timm_b0):
    """The same weights in timm's two networks of one shape; both are reproduced."""
    _, path = timm_b0
    kept = {}
    for name in ("tf_efficientnet_b0", "efficientnet_b0"):
        model, report = port(path, name, source="timm", image_size=64)
        assert report.worst.relative <= 1e-4
        variant = PROJECTS["timm"].variants[name]
        kept[name] = keras_outputs(model, plan(variant), random_images(64))["logits"]
    apart = np.abs(kept["tf_efficientnet_b0"] - kept["efficientnet_b0"]).max()
    assert apart > 0.01 * np.abs(kept["efficientnet_b0"]).max()


def test_nested_and_parallel_state_dicts_are_read(torch_projects, timm_b0, tmp_path):
    torch, _, _ = torch_projects
    network, path = timm_b0
    resolved = plan("efficientnet-b0")
    want = read(path, resolved, TIMM)
    state = network.state_dict()
    other = {name: torch.zeros_like(t) for name, t in state.items()}
    for number, content in enumerate(
        (
            state,
            {"state_dict": state, "epoch": 3},
            {"model": state, "optimizer": {"lr": 0.1}},
            {"state_dict": other, "state_dict_ema": state},  # EMA weights are preferred
            {"state_dict": {f"module.{name}": t for name, t in state.items()}},
            {name: t.half() if t.ndim == 4 else t for name, t in state.items()},
            {"state_dict": {f"model._orig_mod.{name}": t for name, t in state.items()}},
        )
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        have = read(tmp_path / f"{number}.pth", resolved, TIMM)
        assert list(have) == list(want)
        for name, arrays in want.items():
            for a, b in zip(have[name], arrays):
                assert a.dtype == "float32"
                np.testing.assert_allclose(a, b, atol=2e-3 if number == 5 else 0)


def test_half_precision_becomes_float32(torch_projects, timm_b0, tmp_path):
    torch, _, _ = torch_projects
    from safetensors.torch import save_file

    state = timm_b0[0].state_dict()
    for kind in (torch.float16, torch.bfloat16):
        half = {n: t.to(kind) if t.is_floating_point() else t for n, t in state.items()}
        save_file(half, tmp_path / "x.safetensors")
        stored = read(tmp_path / "x.safetensors", plan("efficientnet-b0"), TIMM)
        want = half["conv_stem.weight"].float().permute(2, 3, 1, 0).numpy()
        np.testing.assert_array_equal(stored["stem_conv"][0], want)
        assert stored["stem_conv"][0].dtype == "float32"


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [None, 2, 4], ids=["in a zip", "protocol 2", "protocol 4"])
def test_a_pickle_with_code_is_rejected_and_not_executed(torch_projects, tmp_path, protocol):
    torch, _, _ = torch_projects
    path, trace = tmp_path / "model.pth", tmp_path / "was-run"
    content = {"state_dict": {"conv_stem.weight": torch.zeros(1)}, "args": Trap(str(trace))}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"x": Trap(str(trace))}, protocol))
    with pytest.raises(ValueError, match=r"was rejected without running code"):
        read(path, plan("efficientnet-b0"), TIMM)
    assert not trace.exists()
    if protocol is not None:  # the file is a working pickle
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_missing_and_left_over_tensors_are_named(torch_projects, timm_b0, tmp_path):
    network, _ = timm_b0
    state = network.state_dict()
    state["extra.weight"] = state.pop("blocks.2.1.conv_pw.weight")
    state["blocks.9.0.bn1.bias"] = state.pop("bn2.running_var")
    from safetensors.torch import save_file

    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not hold efficientnet-b0") as error:
        read(tmp_path / "x.safetensors", plan("efficientnet-b0"), TIMM)
    message = str(error.value)
    assert "2 missing: blocks.2.1.conv_pw.weight, bn2.running_var;" in message
    assert "2 left over: " in message
    assert "extra.weight" in message
    assert "blocks.9.0.bn1.bias" in message


def test_other_files_are_rejected(torch_projects, timm_b0, tmp_path):
    torch, _, _ = torch_projects
    _, path = timm_b0
    whole = path.read_bytes()

    def rejected(content, ending, match):
        bad = tmp_path / f"bad{ending}"
        if isinstance(content, bytes):
            bad.write_bytes(content)
        else:
            torch.save(content, bad)
        with pytest.raises(ValueError, match=match):
            read(bad, plan("efficientnet-b0"), TIMM)

    rejected(whole[: len(whole) // 2], ".safetensors", "is not a safetensors file")
    rejected(b"\xff" * 64 + whole[64:], ".safetensors", "is not a safetensors file")
    rejected(b"no weights at all", ".safetensors", "is not a safetensors file")
    rejected(b"", ".safetensors", "is not a safetensors file")
    rejected(b"", ".pth", "was rejected")
    rejected(b"no weights at all", ".pth", "was rejected")
    rejected(whole, ".pth", "was rejected")
    rejected([1, 2], ".pth", "holds a list, not a state dict")
    rejected({"epoch": 3}, ".pth", "holds a dict, not a state dict")
    torch.save({"x": torch.ones(1000)}, tmp_path / "whole.pth")
    rejected((tmp_path / "whole.pth").read_bytes()[:-700], ".pth", "was rejected")
    with pytest.raises(ValueError, match="is not a file"):
        read(tmp_path / "nowhere.pth", plan("efficientnet-b0"), TIMM)
    with pytest.raises(ValueError, match="another variant, another project"):
        read(path, plan("efficientnet-b0"), TORCHVISION)
    with pytest.raises(ValueError, match=r"blocks\.1\.2\.conv_pw\.weight"):
        read(path, plan("efficientnet-b1"), TIMM)


def test_a_tensor_of_another_shape_is_named(torch_projects, timm_b0, tmp_path, keras):
    torch, _, _ = torch_projects
    network, _ = timm_b0
    state = network.state_dict()
    flat = {**state, "conv_stem.weight": state["conv_stem.weight"].flatten()}
    torch.save(flat, tmp_path / "flat.pth")
    with pytest.raises(ValueError, match=r"conv_stem\.weight has shape \(864,\)"):
        read(tmp_path / "flat.pth", plan("efficientnet-b0"), TIMM)
    wide = {**state, "bn2.bias": torch.zeros(7)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"top_bn has shapes \[\(1280,\), \(7,\)"):
        port(
            tmp_path / "wide.pth", "tf_efficientnet_b0", source="timm", image_size=32, compare=False
        )


@pytest.mark.every_stack
def test_the_class_count_is_the_files_or_an_error(keras, torch_projects, timm_b0, tmp_path):
    _, path = timm_b0
    options = {"source": "timm", "image_size": 32, "compare": False}
    model, report = port(path, "tf_efficientnet_b0", classes=10, **options)
    assert model.output_shape == (None, 10)
    assert report.worst is None
    with pytest.raises(ValueError, match="has 10 classes, but classes=1000 was given"):
        port(path, "tf_efficientnet_b0", classes=1000, **options)
    without_top, _ = port(path, "tf_efficientnet_b0", include_top=False, **options)
    assert without_top.output_shape == (None, None, None, 1280)
    np.testing.assert_array_equal(
        without_top.get_layer("top_conv").get_weights()[0],
        model.get_layer("top_conv").get_weights()[0],
    )
    torch, _, _ = torch_projects
    torch.save(_without_top(timm_b0[0]), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"2 missing: classifier\.weight, classifier\.bias"):
        port(tmp_path / "x.pth", "tf_efficientnet_b0", **options)


def _without_top(network):
    return {n: t for n, t in network.state_dict().items() if not n.startswith("classifier.")}


@tensorflow_only
@pytest.mark.slow
def test_files_without_classifier_are_compared_up_to_the_top(
    keras, torch_projects, timm_b0, tmp_path
):
    torch, _, _ = torch_projects
    torch.save(_without_top(timm_b0[0]), tmp_path / "x.pth")
    _, report = port(
        tmp_path / "x.pth",
        "tf_efficientnet_b0",
        source="timm",
        image_size=64,
        include_top=False,
    )
    assert [d.place for d in report.differences][-1] == "top"
    assert report.worst.relative <= 1e-4


def test_ambiguous_timm_names_are_errors(tmp_path, timm_b0):
    _, path = timm_b0
    with pytest.raises(ValueError, match=r"give 'tf_efficientnet_b0' .* or 'efficientnet_b0'"):
        port(path, "efficientnet-b0", source="timm")
    with pytest.raises(ValueError, match="Unknown model of timm 'efficientnet_b10'"):
        port(path, "efficientnet_b10.ra_in1k", source="timm")
    with pytest.raises(ValueError, match=r"Unknown project 'tim'\. Did you mean 'timm'"):
        port(path, "efficientnet_b0", source="tim")


def test_timms_config_json_beside_a_file_is_used(keras, timm_b0, tmp_path):
    path = tmp_path / "model.safetensors"
    path.symlink_to(timm_b0[1])
    config = {
        "architecture": "tf_efficientnet_b0",
        "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "input_size": [3, 64, 64],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, report = port(path, "efficientnet-b0", source="timm", compare=False)
    assert report.source == "timm tf_efficientnet_b0"
    assert model.input_shape == (None, 64, 64, 3)
    np.testing.assert_allclose(np.ravel(model.get_layer("normalization").mean), 127.5)
    from keras_effnet.image_preprocessing import Preprocessing, preprocessing

    assert preprocessing(model) == Preprocessing(64, 0.9, "bicubic")
    with pytest.raises(ValueError, match=r"is of tf_efficientnet_b0 by the config\.json"):
        port(path, "efficientnet_b0", source="timm")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a timm configuration"):
        port(path, "tf_efficientnet_b0", source="timm")


def test_exported_timm_files_load_strictly_and_are_exact(keras, torch_projects, timm_b0, tmp_path):
    _, _, timm = torch_projects
    network, path = timm_b0
    model, _ = port(path, "tf_efficientnet_b0", source="timm", image_size=32, compare=False)
    out = tmp_path / "back.safetensors"
    export(model, out, target="timm", name="tf_efficientnet_b0")
    from safetensors.torch import load_file

    state = load_file(out)
    timm.create_model("tf_efficientnet_b0", num_classes=10).load_state_dict(state, strict=True)
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(state[name].numpy(), tensor.numpy(), err_msg=name)
    with pytest.raises(ValueError, match=r"has epsilon 0\.001 and same padding, and torchvision's"):
        export(model, out, target="torchvision", name="efficientnet_b0")
    with pytest.raises(ValueError, match="qubvel files can be read, not written"):
        export(model, out, target="qubvel", name="efficientnet-b0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.safetensors"]


def test_exported_torchvision_files_load_strictly(keras, torch_projects, tmp_path):
    _, torchvision, _ = torch_projects
    from keras_effnet.constructors import create_model

    variant = PROJECTS["torchvision"].variants["efficientnet_b0"]
    model = create_model(variant, classes=5, input_shape=(32, 32, 3))
    out = tmp_path / "x.safetensors"
    export(model, out, target="torchvision", name="efficientnet-b0")
    from safetensors.torch import load_file

    network = torchvision.models.get_model("efficientnet_b0", weights=None, num_classes=5)
    network.load_state_dict(load_file(out), strict=True)
    have = read(out, plan(variant), TORCHVISION)
    for name, arrays in have.items():
        for a, b in zip(arrays, model.get_layer(name).get_weights()):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("target", "name"),
    [("lukemelas", "efficientnet-b0"), ("efficientnet-lite-pytorch", "efficientnet-lite1")],
)
def test_exported_lukemelas_files_load_strictly(keras, torch_projects, tmp_path, target, name):
    _needs(target)
    from safetensors.torch import load_file

    from keras_effnet.constructors import create_model

    model = create_model(name, classes=5, input_shape=(32, 32, 3))
    out = tmp_path / "x.safetensors"
    export(model, out, target=target, name=name)
    foreign.lukemelas_network(target, name, classes=5).load_state_dict(load_file(out))
    for layer, arrays in read(out, plan(name), LUKEMELAS).items():
        for a, b in zip(arrays, model.get_layer(layer).get_weights()):
            np.testing.assert_array_equal(a, b)


def test_outputs_are_not_compared_without_the_package(keras, torch_projects, timm_b0, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    _, report = port(timm_b0[1], "tf_efficientnet_b0", source="timm", image_size=32)
    assert report.worst is None
    assert "Outputs were not compared: timm cannot be imported" in str(report)
