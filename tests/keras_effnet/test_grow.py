import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.assign import assign_weights
from keras_effnet.variants import NETWORKS, VARIANTS

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "grow.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("grow", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def large(small):
    """Wider in every layer, with one more block in every stage."""
    return dataclasses.replace(small, name="large", width=0.8, depth=1.4)


def _build(variant, activation=None):
    return create_model(
        variant, classes=5, input_shape=(32, 32, 3), classifier_activation=activation
    )


def _stored(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


@pytest.fixture
def networks(keras, small, large, tame):
    """A small network with well-scaled weights, and a large one without."""
    one, other = _build(small), _build(large)
    tame(one)
    return one, other


@pytest.mark.every_stack
def test_a_wider_and_deeper_network_gives_equal_outputs(script, networks, small, large, images):
    one, other = networks
    grown = script.grow(_stored(one), plan(small), plan(large), _stored(other))
    assign_weights(other, grown, "grown")
    np.testing.assert_allclose(
        np.asarray(other(images(32), training=False)),
        np.asarray(one(images(32), training=False)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_added_block_is_a_copy_except_its_last_layer(script, networks, small):
    one, _ = networks
    deeper = dataclasses.replace(small, name="deeper", depth=1.4)
    fresh = _stored(_build(deeper))
    stored = _stored(one)
    grown = script.grow(stored, plan(small), plan(deeper), fresh)
    for name in ("block3c_expand_conv", "block3c_se_reduce", "block3c_project_conv"):
        for have, want in zip(grown[name], stored[name.replace("3c", "3b")]):
            np.testing.assert_array_equal(have, want)
    gamma, beta, mean, _ = grown["block3c_project_bn"]
    assert not gamma.any()
    assert not beta.any()
    np.testing.assert_array_equal(mean, stored["block3b_project_bn"][2])
    # the only block of stage 1 has other input channels, so the new one has different kernels
    np.testing.assert_array_equal(
        grown["block1b_project_conv"][0], fresh["block1b_project_conv"][0]
    )
    assert not grown["block1b_project_bn"][0].any()


def test_noise_is_added_only_to_copies(script, networks, small, large):
    one, other = networks
    stored = _stored(one)
    exact, noisy, again, other_copies = (
        script.grow(stored, plan(small), plan(large), _stored(other), seed=seed, noise=noise)
        for seed, noise in ((1, 0.0), (1, 0.05), (1, 0.05), (2, 0.0))
    )
    own = stored["stem_conv"][0].shape[3]
    kernels = [g["stem_conv"][0] for g in (exact, noisy, again, other_copies)]
    np.testing.assert_array_equal(kernels[1][..., :own], kernels[0][..., :own])
    added = (kernels[1] - kernels[0])[..., own:]
    assert 0.02 < added.std() / kernels[0].std() < 0.1
    np.testing.assert_array_equal(kernels[2], kernels[1])  # depends on the seed
    assert not np.array_equal(kernels[3], kernels[0])


def test_a_network_cannot_shrink_or_change_its_kind(script, small, large):
    with pytest.raises(ValueError, match=r"from large: its stages have .* or more"):
        script.grow({}, plan(large), plan(small), {})
    changed = (dataclasses.replace(small.stages[0], kernel_size=5), *small.stages[1:])
    with pytest.raises(ValueError, match="kernel_size of block1a is 5, not 3"):
        script.grow({}, plan(small), plan(dataclasses.replace(large, stages=changed)), {})


@pytest.mark.slow
def test_the_command_finds_the_variant_and_writes_logits(
    keras, script, small, large, tame, images, tmp_path, monkeypatch, capsys
):
    for variant in (small, large):
        for table in (VARIANTS, NETWORKS):
            monkeypatch.setitem(table, variant.name, variant)
    model = _build(small, activation="softmax")
    tame(model)
    model.save(tmp_path / "small.keras")
    where = [f"--from={tmp_path / 'small.keras'}", f"--out={tmp_path / 'grown.keras'}"]
    script.main([*where, "--model=large", "--noise=0.001"])
    assert f"{small.name} -> large, noise 0.001: logits differ by" in capsys.readouterr().out
    grown = keras.saving.load_model(tmp_path / "grown.keras", compile=False)
    logits = np.asarray(grown(images(32), training=False))
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(
        odds / odds.sum(-1, keepdims=True),
        np.asarray(model(images(32), training=False)),
        rtol=0.05,
    )
