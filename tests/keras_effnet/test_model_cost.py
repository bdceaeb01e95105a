import pytest

from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.variants import VARIANTS


def test_parameters_are_exact(zoo):
    for name in VARIANTS:
        facts, c = zoo[name], cost(name)
        without_top = cost(name, include_top=False).parameters
        counted = (c.parameters, c.trainable, without_top)
        assert counted == (facts["total"], facts["trainable"], facts["notop"]), name


def test_multiply_adds_are_exact(zoo):
    for name in VARIANTS:
        facts, c = zoo[name], cost(name)
        assert c.image_size == facts["image_size"], name
        if "macs" in facts:
            assert c.macs == facts["macs"], name
        else:  # Lite: known to three digits
            assert c.macs / 1e9 == pytest.approx(facts["gmacs"], abs=5e-4), name


def test_other_sizes_and_classes_are_exact(zoo):
    names = [name for name, v in VARIANTS.items() if v.family.name == "v2"]
    assert len(names) == 8
    for name in names:
        facts = zoo[name]
        assert cost(name, image_size=facts["train_size"]).macs == facts["macs_train"], name
        assert cost(name, classes=21843).parameters == facts["total21k"], name


def test_b4_uses_depth_scaling():
    """With the depths of some tables (equal to the widths) it would be 16,438,302."""
    assert cost("efficientnet-b4").parameters == 19_466_816


def test_activation_bytes_are_outputs_times_batch_and_width(tiny):
    """By hand at 32 px: stem 8x16x16; block1a 8x16x16; block2a 32x16x16, 32x8x8, se 2 + 32, 16x8x8;
    block2b 64x8x8 twice, se 4 + 64, 16x8x8; top 32x8x8; 10 classes."""
    outputs = 2 * 8 * 256 + 32 * 256 + 32 * 64 + 34 + 16 * 64 + 2 * 64 * 64 + 68 + 16 * 64
    outputs += 32 * 64 + 10
    c = cost(tiny, classes=10)
    assert c.activation_bytes == outputs * 4
    half = cost(tiny, classes=10, batch_size=8, bytes_per_value=2)
    assert half.activation_bytes == outputs * 16
    assert half.macs == c.macs  # of one image


def test_odd_sizes_round_up_like_same_padding(tiny):
    assert cost(tiny, image_size=31).macs == cost(tiny, image_size=32).macs
    assert cost(tiny, image_size=33).macs > cost(tiny, image_size=32).macs


def test_a_plan_has_the_cost_of_its_variant():
    assert cost(plan("efficientnet-b1")) == cost("efficientnet-b1")
    assert cost(VARIANTS["efficientnet-b1"]) == cost("efficientnet-b1")


@pytest.mark.parametrize("what", ["image_size", "batch_size", "classes"])
def test_counts_below_one_are_errors(what):
    with pytest.raises(ValueError, match=f"{what} 0"):
        cost("efficientnet-b0", **{what: 0})


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'efficientnetv2-s'"):
        cost("efficientnetv2-ss")
