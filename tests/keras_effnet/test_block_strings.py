"""Block strings: the published networks in both directions, and malformed text."""

import pytest

from keras_effnet.block_strings import format_stages, parse_stages
from keras_effnet.variants import VARIANTS

# google/automl effnetv2_configs.py, v2_s_block and v2_base_block
V2_S = (
    "r2_k3_s1_e1_i24_o24_c1",
    "r4_k3_s2_e4_i24_o48_c1",
    "r4_k3_s2_e4_i48_o64_c1",
    "r6_k3_s2_e4_i64_o128_se0.25",
    "r9_k3_s1_e6_i128_o160_se0.25",
    "r15_k3_s2_e6_i160_o256_se0.25",
)


def test_v2_s_has_the_official_block_strings():
    variant = VARIANTS["efficientnetv2-s"]
    assert format_stages(variant.stages, variant.stem_filters) == V2_S


@pytest.mark.parametrize("name", VARIANTS)
def test_published_stages_survive_the_round_trip(name):
    variant = VARIANTS[name]
    strings = format_stages(variant.stages, variant.stem_filters)
    assert parse_stages(strings) == (variant.stages, variant.stem_filters)


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ([], "give a list of block strings"),
        ("r1_k3_s1_e1_i32_o16", "give a list of block strings"),
        ([7], "cannot read 7"),
        (["r1_k3_s1_e1_i32"], "lacks the output filters"),
        (["r1_k3_s1_e1_i32_o16_x9"], "cannot read 'x9'"),
        (["r1_r2_k3_s1_e1_i32_o16"], "cannot read 'r2'"),
        (["r0_k3_s1_e1_i32_o16"], "r0 is not the number of blocks"),
        (["r1.5_k3_s1_e1_i32_o16"], "r1.5 is not the number of blocks"),
        (["r1_k3_s3_e1_i32_o16"], "the stride '3': give s1 or s2"),
        (["r1_k3_s1_e1_i32_o16_c3"], "the convolution type c3"),
        (["r1_k3_s1_e1_i32_o16_se1.2.3"], "not a squeeze-and-excitation ratio"),
        (["r1_k3_s1_e1_i32_o16", "r1_k3_s1_e1_i24_o16"], "write i16"),
    ],
)
def test_malformed_block_strings_are_one_clear_error(strings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse_stages(strings)
