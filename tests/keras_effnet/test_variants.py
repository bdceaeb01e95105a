import pytest

from keras_effnet.variants import VARIANTS


def test_the_variants_are_those_of_the_papers(zoo):
    assert set(VARIANTS) == set(zoo)
    assert len(VARIANTS) == 23


def test_rows_state_the_published_scaling(zoo):
    for name, facts in zoo.items():
        v = VARIANTS[name]
        have = (v.family.name, v.width, v.depth, v.image_size, v.dropout_rate, v.drop_path_rate)
        want = [facts[k] for k in ("family", "width", "depth", "image_size", "dropout")] + [0.2]
        assert have == tuple(want), name


def test_depth_is_not_width():
    """Some published tables confuse the two; it shows in B3 to B7, not in B2."""
    assert [VARIANTS[f"efficientnet-b{i}"].depth for i in range(8)] == [
        1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "momentum", "activation", "depthwise"),
    [
        ("v1", 0.99, "swish", "dwconv"),
        ("v2", 0.9, "swish", "dwconv2"),
        ("lite", 0.99, "relu6", "dwconv"),
    ],
)
def test_families_differ_in_batch_norm_activation_and_names(
    family, momentum, activation, depthwise
):
    rows = [v for v in VARIANTS.values() if v.family.name == family]
    assert rows
    for v in rows:
        f = v.family
        assert (f.bn_momentum, f.activation, f.depthwise_name) == (momentum, activation, depthwise)
        assert v.bn_epsilon == 1e-3


def test_only_lite_has_mbconv_without_squeeze_and_excite():
    for v in VARIANTS.values():
        ratios = {s.se_ratio for s in v.stages if s.op == "mbconv"}
        assert ratios == ({0.0} if v.family.name == "lite" else {0.25})
        assert {s.se_ratio for s in v.stages if s.op == "fused"} <= {0.0}
