"""Weights from repositories of a hub that the test serves on this machine.

huggingface_hub's client talks to it; the files are those of a small network of timm.
"""

import dataclasses
import functools
import http.server
import io
import json
import logging
import re
import threading

import numpy as np
import pytest

from keras_effnet.cli import main
from keras_effnet.constructors import create_model
from keras_effnet.image_preprocessing import Preprocessing, preprocessing
from keras_effnet.network_plan import plan
from keras_effnet.porting.pytorch import write
from keras_effnet.pretrained import pytorch_projects
from keras_effnet.pretrained.download import DownloadError
from keras_effnet.pretrained.hub_weights import fetch_originals
from keras_effnet.variants import NETWORKS, VARIANTS
from tools import foreign

hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.tensorflow_only("files are read and written by NumPy code")

COMMIT, OLD = "1" * 40, "2" * 40
CONFIG = {
    "architecture": "tf_efficientnet_b0",
    "num_classes": 10,
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "input_size": [3, 96, 96],
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    },
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's protocol that reading takes; `repositories` is {name: {file: bytes}}.

    A repository that is a number is answered with that status.
    """

    repositories = None
    requests = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        self.requests.append(self.path)
        match = re.fullmatch(r"/api/models/(.+?)/revision/(.+)", self.path)
        files = re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", self.path)
        name, revision = (match or files).groups()[:2]
        repository = self.repositories.get(name, 404)
        if isinstance(repository, int):
            code = {403: "GatedRepo", 503: "Busy"}.get(repository, "RepoNotFound")
            return self._answer(repository, b"", {"X-Error-Code": code})
        if revision not in ("main", COMMIT, OLD):
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit = OLD if revision == OLD else COMMIT
        if match:
            siblings = [{"rfilename": file} for file in repository]
            info = {"id": name, "sha": commit, "siblings": siblings}
            return self._answer(200, json.dumps(info).encode(), {})
        if files.group(3) not in repository:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = repository[files.group(3)]
        headers = {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": commit}
        return self._answer(200, content, headers, body)

    def _answer(self, status, content, headers, body=True):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def server():
    handler = type("Handler", (Hub,), {"repositories": {}, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


@pytest.fixture
def home(server, tmp_path, monkeypatch):
    """The empty cache; the hub's address is that of the server."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    server.requests.clear()
    return tmp_path / "home"


@pytest.fixture(scope="module", autouse=True)
def small_b0():
    """The first three stages of B0 stand for it."""
    b0 = VARIANTS["efficientnet-b0"]
    short = {"stages": b0.stages[:3], "head_filters": 64}
    with pytest.MonkeyPatch.context() as patch:
        for table in (VARIANTS, NETWORKS):
            patch.setitem(table, b0.name, dataclasses.replace(b0, **short))
        for table, name in (
            (pytorch_projects.TIMM_VARIANTS, "tf_efficientnet_b0"),
            (pytorch_projects.TIMM_VARIANTS, "efficientnet_b0"),
            (pytorch_projects.TORCHVISION_VARIANTS, "efficientnet_b0"),
        ):
            patch.setitem(table, name, dataclasses.replace(table[name], **short))
        yield VARIANTS[b0.name]


@pytest.fixture(scope="module")
def timm_network():
    """A network of timm: the first three stages of tf_efficientnet_b0, with 10 classes."""
    try:
        torch, *_ = foreign.import_torch_projects()
    except ImportError as error:
        pytest.skip(f"PyTorch's projects are not installed here: {error}")
    from timm.layers import get_act_layer
    from timm.models import efficientnet
    from timm.models._efficientnet_builder import decode_arch_def, round_channels

    torch.manual_seed(0)
    stages = [["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k3_s2_e6_c24_se0.25"]]
    network = efficientnet.EfficientNet(
        decode_arch_def([*stages, ["ir_r2_k5_s2_e6_c40_se0.25"]]),
        num_classes=10,
        num_features=64,
        pad_type="same",
        act_layer=get_act_layer("swish"),
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3),
        round_chs_fn=round_channels,
    )
    network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.fixture
def timm_repository(server, timm_network):
    from safetensors.torch import save

    files = {
        "README.md": b"A network",
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": save(timm_network.state_dict(), {"format": "pt"}),
    }
    server.repositories.clear()
    server.repositories["me/flowers"] = files
    return files


def _weights_requested(server):
    return [path for path in server.requests if path.endswith((".safetensors", ".bin", ".keras"))]


@pytest.mark.slow
def test_a_timm_repository_gives_timms_outputs_and_works_offline(
    keras, server, home, timm_repository, timm_network, images, monkeypatch, caplog
):
    import torch

    caplog.set_level(logging.INFO, logger="keras_effnet")
    build = functools.partial(create_model, "efficientnet-b0", weights="hf://me/flowers")
    model = build(classes=10)
    assert preprocessing(model) == Preprocessing(96, 1.0, "bilinear")
    assert model.input_shape == (None, 96, 96, 3)
    assert f"hf://me/flowers is commit {COMMIT}" in caplog.text
    pixels = images(96)
    given = torch.from_numpy((pixels / 127.5 - 1) * 2).permute(0, 3, 1, 2)
    with torch.no_grad():
        want = torch.softmax(timm_network(given), 1).numpy()
    np.testing.assert_allclose(np.asarray(model(pixels, training=False)), want, atol=1e-5)

    (converted,) = home.rglob("*.h5")
    assert converted.name == f"{COMMIT}.h5"
    count = len(_weights_requested(server))
    build(classes=10)
    assert len(_weights_requested(server)) == count
    for offline in ("KERAS_EFFNET_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(offline, "1")
            server.requests.clear()
            again = build(classes=10)
            assert server.requests == []
        for a, b in zip(again.get_weights(), model.get_weights()):
            np.testing.assert_array_equal(a, b)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    build(include_top=False)
    assert "the hub is unreachable" in caplog.text
    assert f"using commit {COMMIT}" in caplog.text


def test_a_pinned_revision_is_not_asked_for_again(server, home, timm_repository):
    address = f"hf://me/flowers@{OLD}"
    model = create_model("efficientnet-b0", weights=address, include_top=False)
    server.requests.clear()
    create_model("efficientnet-b0", weights=address, include_top=False)
    assert server.requests == []
    timm_repository.clear()
    with pytest.raises(ValueError, match="no file of weights"):
        create_model("efficientnet-b0", weights="hf://me/flowers")
    assert model.name == "efficientnet-b0"


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://flowers", ValueError, "is not an address of the hub"),
        ("hf://me/flowers@v9", DownloadError, "has no revision 'v9'"),
        ("hf://me/nothing", DownloadError, "does not exist, or is private"),
        ("hf://me/private", DownloadError, "does not exist, or is private.*HF_TOKEN"),
        ("hf://me/gated", DownloadError, "only be read with permission"),
        ("hf://me/broken", DownloadError, "the hub is unreachable"),
        ("hf://me/empty", ValueError, "has no file of weights .*README.md"),
        ("hf://me/resnet", ValueError, "'resnet50', which is not an EfficientNet"),
        ("hf://me/b1", ValueError, "is of efficientnet-b1, not of efficientnet-b0"),
        ("hf://me/transformers", ValueError, "the library transformers"),
        ("hf://me/flowers", ValueError, "has 10 classes, but the model has 1000"),
        ("hf://me/several", ValueError, "has 2 files of weights .*hf://me/several/a.pth"),
        ("hf://me/flowers/x.pth", ValueError, "has no file 'x.pth'"),
        ("hf://me/bad", ValueError, "is not a timm configuration"),
    ],
)
def test_errors_of_the_hub_are_one_line_before_the_download(
    server, home, timm_repository, address, error, message
):
    def repository(**config):
        return {**timm_repository, "config.json": json.dumps({**CONFIG, **config}).encode()}

    server.repositories |= {"me/private": 401, "me/gated": 403, "me/broken": 503}
    server.repositories["me/empty"] = {"README.md": b""}
    server.repositories["me/resnet"] = repository(architecture="resnet50")
    server.repositories["me/b1"] = repository(architecture="tf_efficientnet_b1")
    server.repositories["me/bad"] = {**timm_repository, "config.json": b"["}
    config = {"architectures": ["X"], "transformers_version": "4"}
    server.repositories["me/transformers"] = {
        **timm_repository,
        "config.json": json.dumps(config).encode(),
    }
    server.repositories["me/several"] = {"a.pth": b"", "b.pth": b""}
    with pytest.raises(error, match=message) as raised:
        create_model("efficientnet-b0", weights=address)
    assert "\n" not in str(raised.value)
    assert _weights_requested(server) == []
    assert not list(home.rglob("*.h5"))


def test_a_missing_package_and_an_unreachable_hub_are_errors(home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "huggingface_hub", None)
        with pytest.raises(DownloadError, match="pip install huggingface_hub"):
            create_model("efficientnet-b0", weights="hf://me/flowers")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="the hub is unreachable"):
        create_model("efficientnet-b0", weights="hf://me/flowers")
    monkeypatch.setenv("KERAS_EFFNET_OFFLINE", "1")
    with pytest.raises(DownloadError, match="KERAS_EFFNET_OFFLINE is set: unset it"):
        create_model("efficientnet-b0", weights="hf://me/flowers")


@pytest.mark.slow
def test_files_of_torchvision_and_of_this_package_are_found(
    keras, server, home, small_b0, tame, images, tmp_path, caplog
):
    symmetric = pytorch_projects.TORCHVISION_VARIANTS["efficientnet_b0"]
    model = create_model(symmetric, classes=3, input_shape=(64, 64, 3))
    tame(model)
    write(model, tmp_path / "x.safetensors", plan(symmetric), pytorch_projects.TORCHVISION)
    model.save(tmp_path / "model.keras")
    server.repositories["me/torchvision"] = {
        "weights.safetensors": (tmp_path / "x.safetensors").read_bytes()
    }
    server.repositories["me/ours"] = {"model.keras": (tmp_path / "model.keras").read_bytes()}
    want = np.asarray(model(images(64), training=False))
    for address in ("hf://me/torchvision", "hf://me/ours"):
        ported = create_model(
            "efficientnet-b0", weights=address, classes=3, input_shape=(64, 64, 3)
        )
        have = np.asarray(ported(images(64), training=False))
        np.testing.assert_allclose(have, want, atol=1e-6)  # its epsilon and padding, too
        with pytest.raises(ValueError, match="has 3 classes, but the model has 1000"):
            create_model("efficientnet-b0", weights=address)
    assert "assumed: image size 224; crop 0.875; interpolation bicubic" in caplog.text


@pytest.mark.slow
def test_predict_and_port_take_an_address(keras, server, home, timm_repository, tmp_path, capsys):
    from PIL import Image

    image = tmp_path / "x.png"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(buffer, "png")
    image.write_bytes(buffer.getvalue())
    address = "hf://me/flowers"
    assert main(["predict", str(image), "--model=efficientnet-b0", f"--weights={address}"]) == 0
    assert f"commit {COMMIT}" in capsys.readouterr().out
    assert fetch_originals(address).with_name("config.json").is_file()
    arguments = ["port", "--from=timm", "--model=tf_efficientnet_b0", "--no_compare"]
    assert main([*arguments, address, f"--out={tmp_path / 'x.keras'}"]) == 0
    assert "read from config.json" in capsys.readouterr().out
    ported = keras.saving.load_model(tmp_path / "x.keras")
    assert ported.input_shape == (None, 96, 96, 3)
    assert main(["port", "--from=timm", "--model=x", "hf://me/no", "--out=x.keras"]) == 2
    assert "does not exist, or is private" in capsys.readouterr().err
