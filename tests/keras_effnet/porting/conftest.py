"""What the tests of porting share: other projects' networks, saved as they save them."""

import pytest

from tools import foreign


@pytest.fixture(scope="session")
def torch_projects():
    """(torch, torchvision, timm); a test without them is skipped, and says which is missing."""
    try:
        return foreign.import_torch_projects()
    except ImportError as error:
        pytest.skip(f"PyTorch's projects are not installed here: {error}")


@pytest.fixture(scope="session")
def timm_b0(torch_projects, tmp_path_factory):
    """(network, path): timm's tf_efficientnet_b0 of 10 classes, disturbed, as .safetensors."""
    network = foreign.torch_network("timm", "tf_efficientnet_b0", classes=10)
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    foreign.save_torch(network, path)
    return network, path
