"""Our ResNet-50 and torchvision's, with the same random weights: equal logits."""

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.network_plan import plan

SIZE = 64


@pytest.mark.slow
def test_resnet_equals_torchvision(keras, torch_projects):
    torch, torchvision, _ = torch_projects
    theirs = torchvision.models.resnet50(weights=None).eval()
    draw = torch.Generator().manual_seed(0)
    for tensor in (*theirs.parameters(), *theirs.buffers()):
        if tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.0, generator=draw)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    ours = create_model("resnet50", classifier_activation=None, input_shape=(SIZE, SIZE, 3))
    for name, source in _torchvision_names().items():
        weight = state[f"{source}.weight"]
        if weight.ndim == 4:
            arrays = [weight.transpose(2, 3, 1, 0)]
        elif weight.ndim == 2:
            arrays = [weight.T, state[f"{source}.bias"]]
        else:
            ends = ("weight", "bias", "running_mean", "running_var")
            arrays = [state[f"{source}.{end}"] for end in ends]
        ours.get_layer(name).set_weights(arrays)
    assert len(_torchvision_names()) == sum(bool(layer.weights) for layer in ours.layers)
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype("float32")
    constants = plan("resnet50").normalization
    pixels = (images - np.float32(constants.mean)) / np.float32(constants.std)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-4)


def _torchvision_names():
    names = {"stem_conv": "conv1", "stem_bn": "bn1", "predictions": "fc"}
    for block in plan("resnet50").blocks:
        source = f"layer{block.name[5]}.{ord(block.name[6]) - ord('a')}"
        for number, role in enumerate(("reduce_", "", "project_"), start=1):
            names[f"{block.name}_{role}conv"] = f"{source}.conv{number}"
            names[f"{block.name}_{role}bn"] = f"{source}.bn{number}"
        if block.projects_shortcut:
            names[f"{block.name}_shortcut_conv"] = f"{source}.downsample.0"
            names[f"{block.name}_shortcut_bn"] = f"{source}.downsample.1"
    return names
