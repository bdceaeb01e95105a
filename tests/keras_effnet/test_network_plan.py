import dataclasses
import re

import pytest

from keras_effnet.network_plan import plan, scale_filters
from keras_effnet.variants import VARIANTS, Stage

TF_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


def _stage(block):
    return int(re.match(r"block(\d+)", block.name).group(1))


def test_blocks_and_channels_are_the_published_ones(zoo):
    for name in VARIANTS:
        p, facts = plan(name), zoo[name]
        stages = range(1, len(facts["repeats"]) + 1)
        assert [sum(_stage(b) == s for b in p.blocks) for s in stages] == facts["repeats"], name
        channels = [{b.out_filters for b in p.blocks if _stage(b) == s} for s in stages]
        assert channels == [{c} for c in facts["channels"][: len(stages)]], name
        assert (p.stem_filters, p.head_filters) == (facts["stem"], facts["head"]), name


def test_each_blocks_input_is_the_previous_blocks_output():
    for name in VARIANTS:
        p = plan(name)
        before = p.stem_filters
        for b in p.blocks:
            assert b.in_filters == before, (name, b.name)
            residual = b.stride == 1 and b.in_filters == b.out_filters
            assert b.residual == residual, (name, b.name)
            before = b.out_filters


def test_only_a_stages_first_block_has_the_stride():
    for name in VARIANTS:
        stages = set()
        for b in plan(name).blocks:
            s = _stage(b)
            stride = 1 if s in stages else VARIANTS[name].stages[s - 1].stride
            assert b.stride == stride, (name, b.name)
            stages.add(s)


def test_drop_rate_increases_over_the_scaled_blocks():
    for name in VARIANTS:
        rates = [b.drop_rate for b in plan(name).blocks]
        n = len(rates)
        assert rates == pytest.approx([0.2 * i / n for i in range(n)], abs=1e-12), name


def test_drop_rate_of_v2_b3_ends_below_the_rate():
    """keras.applications divides by the unscaled count here, and reaches 0.295."""
    last = plan("efficientnetv2-b3").blocks[-1]
    assert last.drop_rate == pytest.approx(0.2 * 31 / 32, abs=1e-12)


def test_given_rates_replace_the_variants():
    p = plan("efficientnet-b0", drop_path_rate=0.5, dropout_rate=0)
    assert p.blocks[-1].drop_rate == pytest.approx(0.5 * 15 / 16)
    assert p.dropout_rate == 0
    assert {b.drop_rate for b in plan("efficientnet-b0", drop_path_rate=0).blocks} == {0}


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), "0.2", True])
@pytest.mark.parametrize("which", ["drop_path_rate", "dropout_rate"])
def test_rates_outside_0_to_1_are_errors(which, rate):
    with pytest.raises(ValueError, match=which):
        plan("efficientnet-b0", **{which: rate})


def test_v1_rounds_up_a_loss_of_ten_percent_and_v2_does_not():
    """16 * 1.2 = 19.2 is the only place in the published tables that shows it."""
    assert scale_filters(16, VARIANTS["efficientnet-b3"]) == 24
    assert scale_filters(16, VARIANTS["efficientnetv2-b3"]) == 16
    assert plan("efficientnet-b3").blocks[0].out_filters == 24
    assert plan("efficientnetv2-b3").blocks[0].out_filters == 16


def test_filters_round_to_at_least_8():
    narrow = dataclasses.replace(VARIANTS["efficientnet-b0"], width=0.01)
    assert scale_filters(16, narrow) == 8


def test_lite_does_not_scale_its_ends():
    p = plan("efficientnet-lite4")
    assert (p.stem_filters, p.head_filters) == (32, 1280)
    assert [b.name for b in p.blocks if _stage(b) in (1, 7)] == ["block1a", "block7a"]
    assert p.blocks[0].in_filters == 32  # the stem's filters, not round(32 * 1.4)


def test_squeeze_filters_are_relative_to_the_blocks_input():
    for name, v in VARIANTS.items():
        for b in plan(name).blocks:
            ratio = v.stages[_stage(b) - 1].se_ratio
            filters = max(1, int(b.in_filters * ratio)) if ratio else 0
            assert b.se_filters == filters, (name, b.name)


def test_squeeze_and_excite_keeps_at_least_one_filter(tiny):
    stages = (tiny.stages[0], Stage("mbconv", 3, 2, 4, 16, 1, 0.01))
    assert plan(dataclasses.replace(tiny, stages=stages)).blocks[-1].se_filters == 1


def test_block_names_are_unique_sorted_and_valid_scopes():
    for name in VARIANTS:
        names = [b.name for b in plan(name).blocks]
        assert len(set(names)) == len(names), name
        assert names == sorted(names), name
        assert all(TF_SCOPE.fullmatch(n) for n in names), name


def test_block_names_after_z():
    """With 32 repeats keras.applications' chr(97 + j) leaves the alphabet: no SavedModel export."""
    names = [b.name for b in plan("efficientnetv2-xl").blocks if _stage(b) == 6]
    assert len(names) == 32
    assert names[0] == "block6a"
    assert names[25:28] == ["block6z", "block6za", "block6zb"]
    assert names[-1] == "block6zf"


def test_block_names_after_zz(tiny):
    """A custom variant may have more than 52 blocks in a stage."""
    names = [b.name for b in plan(dataclasses.replace(tiny, depth=40.0)).blocks if _stage(b) == 2]
    assert len(set(names)) == 80
    assert names == sorted(names)
    assert all(TF_SCOPE.fullmatch(n) for n in names)
    assert names[50:54] == ["block2zy", "block2zz", "block2zza", "block2zzb"]


def test_the_plan_has_the_familys_properties():
    for name, v in VARIANTS.items():
        p = plan(name)
        assert p.bn_momentum == (0.9 if v.family.name == "v2" else 0.99), name
        family = (v.family.activation, v.family.depthwise_name)
        assert (p.activation, p.depthwise_name) == family, name
        variant = (v.dropout_rate, v.normalization)
        assert (p.dropout_rate, p.normalization) == variant, name


def test_a_custom_variant_is_planned(tiny):
    p = plan(tiny)
    assert [b.name for b in p.blocks] == ["block1a", "block2a", "block2b"]
    assert p == plan(dataclasses.replace(tiny))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'efficientnet-b3'"):
        plan("efficientnet-b33")


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-b0",
        "efficientnet-b3",
        "efficientnet-lite3",
        "efficientnetv2-b3",
        "efficientnetv2-s",
        "efficientnetv2-xl",
    ],
)
def test_the_printed_plan_matches_the_golden_file(name, golden):
    golden(f"plan_{name}.txt", str(plan(name)))
