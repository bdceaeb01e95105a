"""Every weighted layer of ours has a name in every source, in the network's order; and the sources'
own code says the same."""

import dataclasses
import doctest
import importlib.util
import pathlib

import numpy as np
import pytest

from benchmarks import foreign
from keras_effnet.network_plan import plan
from keras_effnet.porting import SOURCES, keras_h5, pytorch
from keras_effnet.pretrained import tf_checkpoint
from keras_effnet.pretrained.layer_names import parts, places
from keras_effnet.variants import VARIANTS

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "tf_checkpoint_variables.txt"
OFFICIAL = foreign.read_golden(GOLDEN)
ENDS = {
    "conv": ("kernel",),
    "biased conv": ("kernel", "bias"),
    "depthwise": ("depthwise_kernel",),
    "batch_norm": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}


def test_parts_are_the_networks_weighted_layers_in_its_order(keras, small):
    from keras_effnet.constructors import create_model

    model = create_model(small, classes=5)
    found = parts(plan(small), pytorch.TIMM)
    assert [p.layer for p in found] == [layer.name for layer in model.layers if layer.weights]
    kinds = {p.layer: p.kind for p in found}
    for layer in model.layers:
        if layer.weights:
            kind = {"BatchNormalization": "batch_norm", "Dense": "dense"}.get(
                type(layer).__name__,
                "depthwise" if "Depthwise" in type(layer).__name__ else "conv",
            )
            biased = "biased " if kind == "conv" and len(layer.weights) == 2 else ""
            assert kinds[layer.name] == biased + kind


TABLES = {
    "qubvel": keras_h5.QUBVEL,
    "leondgarse": keras_h5.LEONDGARSE,
    "tensorflow": tf_checkpoint.NAMES,
    "timm": pytorch.TIMM,
    "torchvision": pytorch.TORCHVISION,
}


@pytest.mark.parametrize("source", TABLES)
def test_no_source_calls_two_layers_alike(source):
    for variant in SOURCES[source].variants.values():
        theirs = [p.theirs for p in parts(plan(variant), TABLES[source])]
        assert len(set(theirs)) == len(theirs), variant.name


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_variables_are_ours_one_by_one_in_the_order_of_their_graph(name):
    found = parts(plan(name), tf_checkpoint.NAMES)
    assert [f"{p.theirs}/{end}" for p in found for end in ENDS[p.kind]] == list(OFFICIAL[name])


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_shapes_are_the_plans(name):
    resolved, shapes = plan(name), OFFICIAL[name]
    for block, place in places(resolved):
        prefix = f"blocks_{place['index']}/"
        kernels = {n[len(prefix) :]: s for n, s in shapes.items() if n.startswith(prefix)}
        if block.se_filters:
            assert kernels["se/conv2d/kernel"][-1] == block.se_filters
        last = "conv2d_1/kernel" if block.expands else "conv2d/kernel"
        assert kernels[last][-1] == block.out_filters
        if block.expands:
            assert kernels["conv2d/kernel"][-2:] == (block.in_filters, block.expand_filters)


def test_blocks_past_z_are_counted_in_the_networks_order():
    """XL has 32 blocks in a stage: block6zf is the last, and sorts before block6b."""
    resolved = plan("efficientnetv2-xl")
    found = {block.name: place for block, place in places(resolved)}
    assert found["block6zf"]["position"] == 31
    assert found["block6zf"]["index"] == found["block6z"]["index"] + 6
    assert found["block7a"] == {
        "stage": 6,
        "stage1": 7,
        "position": 0,
        "index": found["block6zf"]["index"] + 1,
        "name": "block7a",
    }
    theirs = [p.theirs for p in parts(resolved, pytorch.TIMM) if p.layer == "block6za_project_bn"]
    assert theirs == ["blocks.5.26.bn3"]


FAST = ("tf_efficientnet_b0", "efficientnet_b0", "tf_efficientnetv2_b0", "efficientnet_v2_s")
NETWORKS = [
    pytest.param(source, name, marks=[] if name in FAST else pytest.mark.slow)
    for source in ("timm", "torchvision")
    for name in SOURCES[source].variants
]


@pytest.mark.parametrize(("source", "name"), NETWORKS)
def test_names_epsilon_padding_and_pixels_are_those_of_the_package(torch_projects, source, name):
    """All networks of timm and torchvision, without memory for their weights (L2, XL too)."""
    torch, torchvision, timm = torch_projects
    row = SOURCES[source]
    variant = row.variants[name]
    with torch.device("meta"):
        network = (
            timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
        )
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("_tracked")}
    found = parts(plan(variant), row.write)
    assert [n.rpartition(".")[0] for n in state if n.endswith(".weight")] == [
        p.theirs for p in found
    ]
    assert sum(t.numel() for t in state.values()) == _weights(variant)

    modules = list(network.modules())
    norms = {m.eps for m in modules if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {variant.bn_epsilon}
    strided = [m for m in modules if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    symmetric = [m.padding == tuple(k // 2 for k in m.kernel_size) for m in strided]
    assert len(strided) == 5
    assert all(symmetric) if variant.padding == "symmetric" else not any(symmetric)
    assert variant.padding == "symmetric" or {type(m).__name__ for m in strided} == {"Conv2dSame"}

    if source == "timm":
        mean, std = network.default_cfg["mean"], network.default_cfg["std"]
    else:
        weights = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        mean, std = weights.mean, weights.std
        prepared = row.preprocessing[name]
        assert [prepared.image_size] == weights.crop_size
        assert prepared.crop == weights.crop_size[0] / weights.resize_size[0]
        assert prepared.interpolation == weights.interpolation.value
    np.testing.assert_allclose(variant.normalization.mean, np.array(mean) * 255)
    np.testing.assert_allclose(variant.normalization.std, np.array(std) * 255)


def _weights(variant):
    from keras_effnet.model_cost import cost

    return cost(variant).parameters


@pytest.mark.parametrize("module", ["", ".names", ".sources"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module("keras_effnet.porting" + module))
    assert result.attempted
    assert result.failed == 0


def test_importing_the_porting_imports_no_framework(run_python):
    """The command line's help must not wait for one."""
    said = run_python(
        "import sys, keras_effnet.cli\n"
        "print([m for m in ('keras', 'tensorflow', 'torch', 'timm') if m in sys.modules])",
        with_package=True,
    )
    assert said.strip() == "[]"


def test_variants_differ_from_ours_in_data_alone():
    """Epsilon, padding, pixels and size; the tables of stages are the papers'."""
    free = ("bn_epsilon", "padding", "normalization", "image_size")
    for row in SOURCES.values():
        for variant in row.variants.values():
            ours = VARIANTS[variant.name]
            same = {name: getattr(ours, name) for name in free}
            assert dataclasses.replace(variant, **same) == ours


@pytest.mark.parametrize(
    ("module", "tables"),
    [
        ("porting.pytorch", ["TIMM_VARIANTS", "TORCHVISION_VARIANTS"]),
        ("porting.keras_h5", ["QUBVEL_VARIANTS", "LEONDGARSE_VARIANTS"]),
        ("porting.keras_applications", ["APPLICATIONS_VARIANTS"]),
        ("pretrained.tf_checkpoint", ["CHECKPOINT_VARIANTS"]),
    ],
)
def test_a_new_variant_claims_nothing_about_other_projects(module, tables, monkeypatch):
    new = dataclasses.replace(VARIANTS["efficientnetv2-b3"], name="efficientnetv2-b10")
    monkeypatch.setitem(VARIANTS, new.name, new)
    spec = importlib.util.find_spec(f"keras_effnet.{module}")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    loaded = importlib.import_module(f"keras_effnet.{module}")
    for table in tables:
        assert getattr(fresh, table) == getattr(loaded, table), table
