import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tflite
from tflite import litert
from tflite.flatbuffer import ops
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import equalization, finetuning, range_estimation, range_search
from tflite.quantization.calibration import collect_histograms


def _planned(content, photos, preset="int8"):
    """(ranges by min-max, plan)."""
    found = estimate_ranges(content, collect_histograms(content, photos), "minmax")
    return found, tflite.make_plan(tflite.read_ops(content), preset, calibration_images=len(photos))


def _walked(content, found, plan, images, rounded):
    network = Graph(content)
    walk = finetuning._Walk(tf, network, found, plan)
    env = {network.input: tf.constant(images, tf.float32)}
    return walk.run(env, network.operations, rounded)[network.output].numpy()


def _scores(content, images):
    return litert.scores(litert.interpreter(content), images)


def _variant(content, photos, way):
    if way == "folded":
        return fold_normalization(content)
    if way == "subtract":
        return fold_normalization(content, border="subtract")
    if way == "through swishes":
        network = Graph(content)
        names = tuple(network.name(swish.z) for swish in swishes(network))
        seen = collect_histograms(content, photos[:16])
        return equalization.equalize(content, seen, strength=1.0, through_swish=names)
    return content


_WAYS = ["plain", "folded", "subtract", "through swishes"]


@pytest.mark.parametrize("way", _WAYS)
def test_the_walk_gives_the_float_networks_scores(trained, photos, way):
    content = _variant(trained, photos, way)
    found, plan = _planned(content, photos[:16])
    got = _walked(content, found, plan, photos[:16], rounded=False)
    np.testing.assert_allclose(got, _scores(content, photos[:16]), atol=1e-4)


def test_the_walk_gives_a_relu6_networks_scores(trained_lite, photos):
    found, plan = _planned(trained_lite, photos[:16])
    got = _walked(trained_lite, found, plan, photos[:16], rounded=False)
    np.testing.assert_allclose(got, _scores(trained_lite, photos[:16]), atol=1e-4)


def _off(content, plan, found, photos):
    """{tensor: mean difference in codes} of every int8 operation walked on what the kernel of the
    quantized file got.
    """
    network = Graph(content)
    walk = finetuning._Walk(tf, network, found, plan)
    made = litert.interpreter(tflite.quantize(content, found, plan), keep_tensors=True)
    feed, details = made.get_input_details()[0], made.get_tensor_details()
    details = {d["name"]: d for d in details if d["dtype"] is np.int8}
    rows = {}
    for photo in photos:
        made.set_tensor(feed["index"], photo[None].astype(feed["dtype"]))
        made.invoke()
        env = {network.input: tf.constant(photo[None], tf.float32)}
        for op in network.operations:
            d = details.get(network.name(op.output))
            if d is None or op.output not in walk.rounded:
                env = walk.run(env, [op], rounded=True)
                continue
            scale, zero = d["quantization"]
            got = walk.run(env, [op], rounded=True)[op.output].numpy()
            want = (made.get_tensor(d["index"]).astype(np.float32) - zero) * np.float32(scale)
            rows.setdefault((op.name, d["name"]), []).append(np.abs(got - want).mean() / scale)
            env[op.output] = tf.constant(want)
    return {key: np.mean(values) for key, values in rows.items()}


@pytest.mark.parametrize(
    ("way", "preset"),
    [
        ("plain", "int8"),
        ("folded", "int8"),
        ("subtract", "int8_strict"),
        ("through swishes", "int8"),
    ],
)
def test_every_kernel_rounds_as_the_walk_does(trained, photos, way, preset):
    """Operation by operation, each on what LiteRT's kernel got: less than a code apart."""
    content = _variant(trained, photos, way)
    found, plan = _planned(content, photos[:16], preset)
    off = _off(content, plan, found, photos[:4])
    assert len(off) > 35
    assert {key: value for key, value in off.items() if value > 0.3} == {}
    assert np.mean(list(off.values())) < 0.05


def test_the_rounded_walks_scores_are_the_quantized_files(trained, photos):
    found, plan = _planned(trained, photos)
    quantized = _scores(tflite.quantize(trained, found, plan), photos)
    walked = _walked(trained, found, plan, photos, rounded=True)
    apart = np.abs(walked - quantized).mean()
    assert apart < 0.5 * np.abs(quantized - _scores(trained, photos)).mean()
    assert (walked.argmax(-1) == quantized.argmax(-1)).mean() > 0.85


def test_blocks_are_the_whole_network_in_order(trained):
    network = Graph(trained)
    parts = finetuning.blocks(network)
    assert [op for _, part, _ in parts for op in part] == network.operations
    assert parts[0][0] == network.input
    assert parts[-1][2] == network.output
    for (_, _, sink), (source, _, _) in zip(parts, parts[1:]):
        assert sink == source
    assert len(parts) > 3


def test_a_block_has_something_to_learn_and_does_not_end_before_a_swish(trained):
    network = Graph(trained)
    before = {swish.z for swish in swishes(network)}
    for _, part, sink in finetuning.blocks(network):
        assert any(op.name in LINEAR for op in part)
        assert sink not in before


def test_a_block_reads_one_tensor_alone(trained):
    """A residual branch and what it is added to are in one block."""
    network = Graph(trained)
    for source, part, sink in finetuning.blocks(network):
        made = {tensor for op in part for tensor in op.outputs}
        read = {i for op in part for i in op.inputs if i >= 0 and not network.is_constant(i)}
        assert read - made == {source}
        outside = [op for op in network.operations if op not in part]
        assert not (made - {sink}) & {i for op in outside for i in op.inputs}


@pytest.fixture(scope="module")
def tuned_once():
    """tuned(content, photos, preset) -> what came of a short fine-tuning, made once."""
    made = {}

    def tuned(content, photos, preset="int8"):
        if content not in made:
            found, plan = _planned(content, photos, preset)
            lines = []
            result = finetuning.finetune(
                content, found, plan, photos[:32], block_steps=8, steps=20, progress=lines.append
            )
            made[content] = (found, plan, *result, lines)
        return made[content]

    return tuned


def test_tuning_brings_the_quantized_scores_nearer(trained_v1, photos, tuned_once):
    """In LiteRT, not in the simulation."""
    content = fold_normalization(trained_v1)
    found, plan, tuned, learned, _ = tuned_once(content, photos)
    judge = Objective(content, photos)
    before, after = (
        judge(tflite.quantize(c, r, plan))[0] for c, r in ((content, found), (tuned, learned))
    )
    assert after < 0.8 * before


def test_a_tuned_network_is_a_float_tflite_for_the_same_plan(trained_v1, photos, tuned_once):
    content = fold_normalization(trained_v1)
    found, plan, tuned, learned, _ = tuned_once(content, photos)
    assert tflite.read_ops(tuned) == tflite.read_ops(content)
    assert tuned != content
    assert ops.misaligned_buffers(tuned) == 0
    assert np.isfinite(_scores(tuned, photos[:4])).all()
    assert learned.keys() == found.keys()
    assert learned != found
    for name, bounds in learned.items():
        assert bounds["min"] <= bounds["max"]
        assert (bounds["min"] <= 0 <= bounds["max"]) or found[name]["min"] > 0 > -found[name]["max"]
    quantized = tflite.read_ops(tflite.quantize(tuned, learned, plan))
    assert len(quantized) == len(tflite.read_ops(tflite.quantize(content, found, plan)))


def test_the_input_and_the_sigmoids_keep_their_ranges(trained_v1, photos, tuned_once):
    content = fold_normalization(trained_v1)
    found, _, _, learned, _ = tuned_once(content, photos)
    network = Graph(content)
    fixed = [network.name(op.output) for op in network.operations if op.name == "LOGISTIC"]
    for name in [network.name(network.input), *fixed]:
        assert learned[name] == found[name]


def test_no_part_of_it_gets_worse(trained_v1, photos, tuned_once):
    content = fold_normalization(trained_v1)
    *_, lines = tuned_once(content, photos)
    assert len(lines) == len(finetuning.blocks(Graph(content))) + 1
    for line in lines:
        before, after = (float(x) for x in line.rsplit(maxsplit=3)[1::2])
        assert after <= before


def test_steps_that_do_not_help_are_taken_back(trained_lite, photos, monkeypatch):
    monkeypatch.setattr(finetuning, "_RATE", 50.0)
    found, plan = _planned(trained_lite, photos[:16])
    tuned, learned = finetuning.finetune(
        trained_lite, found, plan, photos[:16], block_steps=0, steps=1, seed=1
    )
    before, after = Graph(trained_lite), Graph(tuned)
    for a, b in zip(before.operations, after.operations):
        for x, y in zip(a.inputs[1:], b.inputs[1:]):
            if a.name in LINEAR:
                np.testing.assert_array_equal(before.constant(x), after.constant(y))
    for name, bounds in learned.items():
        assert bounds == pytest.approx(found[name])


def test_no_steps_change_nothing_but_the_bytes_layout(trained_v1, photos):
    found, plan = _planned(trained_v1, photos[:16])
    tuned, learned = finetuning.finetune(
        trained_v1, found, plan, photos[:16], block_steps=0, steps=0
    )
    np.testing.assert_array_equal(_scores(tuned, photos[:2]), _scores(trained_v1, photos[:2]))
    assert learned == found


def test_the_same_seed_gives_the_same_ranges(trained_lite, photos):
    found, plan = _planned(trained_lite, photos[:16])

    def tuned():
        return finetuning.finetune(
            trained_lite, found, plan, photos[:16], block_steps=0, steps=3, seed=4
        )[1]

    first = tuned()
    for name, bounds in tuned().items():
        assert bounds == pytest.approx(first[name], rel=1e-4)


def test_sigmoids_at_the_end_are_tuned_too(logits_content, images):
    network = Graph(logits_content)
    out = network.add_tensor("sigmoids", network.shape(network.output))
    network.insert(network.operations[-1], "LOGISTIC", (network.output,), out)
    network.operations[-2:] = reversed(network.operations[-2:])
    network._graph.outputs = [out]
    for signature in network._tree.signatureDefs:
        signature.outputs[0].tensorIndex = out
    content = network.content()
    found, plan = _planned(content, images)
    lines = []
    finetuning.finetune(content, found, plan, images, block_steps=0, steps=2, progress=lines.append)
    assert lines[0].startswith("  scores: divergence ")


def test_an_operation_that_cannot_be_walked_is_a_clear_error(trained_v1, photos):
    network = Graph(trained_v1)
    last = network.operations[-1]
    out = network.add_tensor("exp", network.shape(last.inputs[0]))
    network.insert(last, "EXP", (last.inputs[0],), out)
    network.rewire(last, last.inputs[0], out)
    content = network.content()
    found, plan = _planned(content, photos[:16])
    with pytest.raises(ValueError, match=r"does not know the operation EXP: leave it out"):
        finetuning.finetune(content, found, plan, photos[:16], block_steps=1, steps=1)


def test_an_activation_that_cannot_be_walked_is_a_clear_error(trained_lite, photos):
    found, plan = _planned(trained_lite, photos[:16])
    network = Graph(trained_lite)
    network.operations[-2].raw.builtinOptions.fusedActivationFunction = 4  # TANH
    content = network.content()
    plan = dataclasses.replace(plan)
    with pytest.raises(ValueError, match=r"Unknown activation 'TANH'"):
        finetuning.finetune(content, found, plan, photos[:16], block_steps=0, steps=1)
