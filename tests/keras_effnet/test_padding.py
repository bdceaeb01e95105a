"""Symmetric padding, as PyTorch pads: data of a variant, and nothing else changes."""

import dataclasses

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan

pytestmark = pytest.mark.every_stack


def _strided(small):
    return {
        f"{block.name}_{'expand_conv' if block.op == 'fused' else plan(small).depthwise_name}"
        for block in plan(small).blocks
        if block.stride == 2
    } | {"stem_conv"}


def test_symmetric_padding_is_a_layer_before_each_strided_convolution(keras, small):
    symmetric = dataclasses.replace(small, padding="symmetric")
    options = {"classes": 5, "classifier_activation": None, "input_shape": (None, None, 3)}
    same, ours = create_model(small, **options), create_model(symmetric, **options)
    extra = {layer.name for layer in ours.layers} - {layer.name for layer in same.layers}
    assert {n for n in extra if "pad" in n} == {f"{n}_pad" for n in _strided(small)}
    assert not [layer.name for layer in same.layers if layer.name.endswith("_pad")]
    weights = [(w.shape, layer.name) for layer in same.layers for w in layer.weights]
    assert weights == [(w.shape, layer.name) for layer in ours.layers for w in layer.weights]
    assert cost(symmetric) == cost(small)


@pytest.mark.parametrize("size", [64, 65, 67])
def test_output_sizes_equal_same_padding(keras, small, images, tame, size):
    """At odd sizes "same" pads symmetrically, so both networks are equal."""
    options = {"include_top": False, "input_shape": (size, size, 3)}
    ours = create_model(dataclasses.replace(small, padding="symmetric"), **options)
    tame(ours)
    same = create_model(small, **options)
    same.set_weights(ours.get_weights())
    have, want = np.array(ours(images(size))), np.array(same(images(size)))
    assert have.shape == want.shape
    if size == 65:  # 65, 33, 17, 9: odd all the way
        np.testing.assert_allclose(have, want, atol=1e-6)
    else:
        assert np.abs(have - want).max() > 1e-3


def test_the_plan_states_the_padding(small):
    assert "padding" not in str(plan(small))
    assert "symmetric padding" in str(plan(dataclasses.replace(small, padding="symmetric")))
    with pytest.raises(ValueError, match="padding 'valid' is unknown: give 'same' or 'symm"):
        plan(dataclasses.replace(small, padding="valid"))
