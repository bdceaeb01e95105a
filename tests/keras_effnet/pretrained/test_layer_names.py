"""Every weighted layer has a name in Google's checkpoints, in the network's order."""

import pathlib

import pytest

from keras_effnet.network_plan import plan
from keras_effnet.pretrained import pytorch_projects, tf_checkpoint
from keras_effnet.pretrained.layer_names import block_positions, weighted_layers
from tools import foreign

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "tf_checkpoint_variables.txt"
OFFICIAL = foreign.read_golden(GOLDEN)
ENDS = {
    "conv": ("kernel",),
    "biased conv": ("kernel", "bias"),
    "depthwise": ("depthwise_kernel",),
    "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}


@pytest.mark.every_stack
def test_weighted_layers_are_the_models_in_its_order(keras, small):
    from keras_effnet.constructors import create_model

    model = create_model(small, classes=5)
    layers = weighted_layers(plan(small), pytorch_projects.TIMM)
    assert [p.name for p in layers] == [layer.name for layer in model.layers if layer.weights]
    kinds = {p.name: p.kind for p in layers}
    for layer in model.layers:
        if layer.weights:
            kind = {"BatchNormalization": "batch_norm", "Dense": "dense"}.get(
                type(layer).__name__,
                "depthwise" if "Depthwise" in type(layer).__name__ else "conv",
            )
            biased = "biased " if kind == "conv" and len(layer.weights) == 2 else ""
            assert kinds[layer.name] == biased + kind


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_variables_are_ours_in_the_graphs_order(name):
    layers = weighted_layers(plan(name), tf_checkpoint.NAMES)
    assert [f"{p.source_name}/{end}" for p in layers for end in ENDS[p.kind]] == list(
        OFFICIAL[name]
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_shapes_are_the_plans(name):
    resolved, shapes = plan(name), OFFICIAL[name]
    for block, place in block_positions(resolved):
        prefix = f"blocks_{place['index']}/"
        kernels = {n[len(prefix) :]: s for n, s in shapes.items() if n.startswith(prefix)}
        if block.se_filters:
            assert kernels["se/conv2d/kernel"][-1] == block.se_filters
        last = "conv2d_1/kernel" if block.expands else "conv2d/kernel"
        assert kernels[last][-1] == block.out_filters
        if block.expands:
            assert kernels["conv2d/kernel"][-2:] == (block.in_filters, block.expand_filters)


def test_blocks_after_z_keep_the_networks_order():
    """XL has 32 blocks in a stage: block6zf is the last, and sorts before block6b."""
    resolved = plan("efficientnetv2-xl")
    positions = {block.name: place for block, place in block_positions(resolved)}
    assert positions["block6zf"]["position"] == 31
    assert positions["block6zf"]["index"] == positions["block6z"]["index"] + 6
    assert positions["block7a"] == {
        "stage": 6,
        "stage1": 7,
        "position": 0,
        "index": positions["block6zf"]["index"] + 1,
        "name": "block7a",
    }
    theirs = [
        p.source_name
        for p in weighted_layers(resolved, pytorch_projects.TIMM)
        if p.name == "block6za_project_bn"
    ]
    assert theirs == ["blocks.5.26.bn3"]
