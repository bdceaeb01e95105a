"""Networks of other projects, saved in their formats."""

import pytest

from tools import foreign


@pytest.fixture(scope="session")
def torch_projects():
    """(torch, torchvision, timm); skips the test if one is missing, and names it."""
    try:
        return foreign.import_torch_projects()
    except ImportError as error:
        pytest.skip(f"PyTorch's projects are not installed here: {error}")


@pytest.fixture(scope="session")
def timm_b0(torch_projects, tmp_path_factory):
    """(network, path): timm's tf_efficientnet_b0 with 10 classes and random statistics."""
    network = foreign.torch_network("timm", "tf_efficientnet_b0", classes=10)
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    foreign.save_torch(network, path)
    return network, path
