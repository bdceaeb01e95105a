"""The tables of other projects agree with the projects' own code."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.porting import PROJECTS, keras_h5
from keras_effnet.pretrained import pytorch_projects, tf_checkpoint
from keras_effnet.pretrained.layer_names import weighted_layers
from keras_effnet.variants import VARIANTS

TABLES = {
    "qubvel": keras_h5.QUBVEL,
    "leondgarse": keras_h5.LEONDGARSE,
    "tensorflow": tf_checkpoint.NAMES,
    "timm": pytorch_projects.TIMM,
    "torchvision": pytorch_projects.TORCHVISION,
}


@pytest.mark.parametrize("source", TABLES)
def test_layer_names_of_a_project_are_unique(source):
    for variant in PROJECTS[source].variants.values():
        theirs = [p.source_name for p in weighted_layers(plan(variant), TABLES[source])]
        assert len(set(theirs)) == len(theirs), variant.name


FAST = ("tf_efficientnet_b0", "efficientnet_b0", "tf_efficientnetv2_b0", "efficientnet_v2_s")
NETWORKS = [
    pytest.param(source, name, marks=[] if name in FAST else pytest.mark.slow)
    for source in ("timm", "torchvision")
    for name in PROJECTS[source].variants
]


@pytest.mark.parametrize(("source", "name"), NETWORKS)
def test_names_epsilon_padding_and_pixels_match_the_package(torch_projects, source, name):
    """All networks of timm and torchvision, without allocating weights."""
    torch, torchvision, timm = torch_projects
    row = PROJECTS[source]
    variant = row.variants[name]
    with torch.device("meta"):
        network = (
            timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
        )
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("_tracked")}
    layers = weighted_layers(plan(variant), row.write)
    assert [n.rpartition(".")[0] for n in state if n.endswith(".weight")] == [
        p.source_name for p in layers
    ]
    assert sum(t.numel() for t in state.values()) == cost(variant).parameters

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


def test_importing_the_command_line_imports_no_framework(run_python):
    """Keeps ``--help`` fast."""
    output = run_python(
        "import sys, keras_effnet.cli\n"
        "print([m for m in ('keras', 'tensorflow', 'torch', 'timm') if m in sys.modules])",
        with_package=True,
    )
    assert output.strip() == "[]"


def test_variants_differ_from_ours_only_in_data():
    """Epsilon, padding, normalization and size; the stages are the papers'."""
    free = ("bn_epsilon", "padding", "normalization", "image_size")
    for row in PROJECTS.values():
        for variant in row.variants.values():
            ours = VARIANTS[variant.name]
            same = {name: getattr(ours, name) for name in free}
            assert dataclasses.replace(variant, **same) == ours


@pytest.mark.parametrize(
    ("module", "tables"),
    [
        ("pretrained.pytorch_projects", ["TIMM_VARIANTS", "TORCHVISION_VARIANTS"]),
        ("porting.keras_h5", ["QUBVEL_VARIANTS", "LEONDGARSE_VARIANTS"]),
        ("porting.keras_applications", ["APPLICATIONS_VARIANTS"]),
        ("pretrained.tf_checkpoint", ["CHECKPOINT_VARIANTS"]),
    ],
)
def test_a_new_variant_is_in_no_projects_table(module, tables, monkeypatch):
    new = dataclasses.replace(VARIANTS["efficientnetv2-b3"], name="efficientnetv2-b10")
    monkeypatch.setitem(VARIANTS, new.name, new)
    spec = importlib.util.find_spec(f"keras_effnet.{module}")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    loaded = importlib.import_module(f"keras_effnet.{module}")
    for table in tables:
        assert getattr(fresh, table) == getattr(loaded, table), table
