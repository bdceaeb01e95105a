import numpy as np
import pytest

import tflite
from keras_effnet.litert import ops, runner
from tflite.flatbuffer.graph import LINEAR, Graph, swishes
from tflite.quantization import finetuning
from tflite.quantization.finetuning import Schedule
from tflite.quantization.normalization_folding import fold_normalization
from tflite.quantization.objective import Objective


def _planned(model, photos):
    """(min-max ranges, plan)."""
    plan = tflite.make_plan(tflite.read_ops(model), "int8", calibration_images=len(photos))
    return tflite.calibrate(model, photos), plan


# Blocks ---------------------------------------------------------------------------------------


def test_blocks_cover_the_network_in_order(trained):
    graph = Graph(trained)
    blocks = finetuning.blocks(graph)
    assert [op for block in blocks for op in block.operations] == graph.operations
    assert blocks[0].source == graph.input
    assert blocks[-1].sink == graph.output
    for block, following in zip(blocks, blocks[1:]):
        assert block.sink == following.source
    assert len(blocks) > 3


def test_blocks_have_a_layer_and_do_not_end_before_a_swish(trained):
    graph = Graph(trained)
    before_swish = {swish.z for swish in swishes(graph)}
    for block in finetuning.blocks(graph):
        assert any(op.name in LINEAR for op in block.operations)
        assert block.sink not in before_swish


def test_blocks_read_a_single_tensor(trained):
    """A residual branch and the tensor that it is added to are in one block."""
    graph = Graph(trained)
    for block in finetuning.blocks(graph):
        written = {tensor for op in block.operations for tensor in op.outputs}
        inputs = {i for op in block.operations for i in op.inputs}
        read = {i for i in inputs if i >= 0 and not graph.is_constant(i)}
        assert read - written == {block.source}
        outside = [op for op in graph.operations if op not in block.operations]
        assert not (written - {block.sink}) & {i for op in outside for i in op.inputs}


# Training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finetuned():
    """finetuned(model, photos) -> (ranges, plan, new model, new ranges, log lines), run once."""
    results = {}

    def once(model, photos):
        if model not in results:
            ranges, plan = _planned(model, photos)
            lines = []
            schedule = Schedule(block_steps=8, steps=20)
            result = finetuning.finetune(
                model, ranges, plan, photos[:32], schedule, log=lines.append
            )
            results[model] = (ranges, plan, *result, lines)
        return results[model]

    return once


@pytest.fixture
def folded(trained_v1):
    """The first generation's network with its normalization in the first convolution."""
    return fold_normalization(trained_v1)


@pytest.mark.slow
def test_finetuning_improves_the_quantized_scores(folded, photos, finetuned):
    """Measured in LiteRT, not in the simulation."""
    ranges, plan, model, new_ranges, _ = finetuned(folded, photos)
    objective = Objective(folded, photos)
    before = objective(tflite.quantize(folded, ranges, plan))[0]
    assert objective(tflite.quantize(model, new_ranges, plan))[0] < 0.8 * before


@pytest.mark.slow
def test_result_is_a_float_tflite_for_the_same_plan(folded, photos, finetuned):
    ranges, plan, model, new_ranges, _ = finetuned(folded, photos)
    assert tflite.read_ops(model) == tflite.read_ops(folded)
    assert model != folded
    assert ops.misaligned_buffers(model) == 0
    assert np.isfinite(runner.scores(model, photos[:4])).all()
    assert new_ranges.keys() == ranges.keys()
    assert new_ranges != ranges
    for name, bounds in new_ranges.items():
        low, high = ranges[name]["min"], ranges[name]["max"]
        assert bounds["min"] <= bounds["max"]
        assert (bounds["min"] <= 0 <= bounds["max"]) or low > 0 > -high
    quantized = tflite.read_ops(tflite.quantize(model, new_ranges, plan))
    assert len(quantized) == len(tflite.read_ops(tflite.quantize(folded, ranges, plan)))


def test_ranges_of_input_and_sigmoids_do_not_change(folded, photos, finetuned):
    ranges, _, _, new_ranges, _ = finetuned(folded, photos)
    graph = Graph(folded)
    fixed = [graph.name(op.output) for op in graph.operations if op.name == "LOGISTIC"]
    for name in [graph.name(graph.input), *fixed]:
        assert new_ranges[name] == ranges[name]


def test_no_block_gets_worse(folded, photos, finetuned):
    *_, lines = finetuned(folded, photos)
    assert len(lines) == len(finetuning.blocks(Graph(folded))) + 1
    for line in lines:
        before, after = (float(x) for x in line.rsplit(maxsplit=3)[1::2])
        assert after <= before


def _finetune(model, ranges, plan, images, **schedule):
    schedule = Schedule(**{"block_steps": 0, **schedule})
    return finetuning.finetune(model, ranges, plan, images, schedule)


def test_steps_that_do_not_help_are_undone(trained_lite, photos):
    ranges, plan = _planned(trained_lite, photos[:16])
    model, new_ranges = _finetune(trained_lite, ranges, plan, photos[:16], steps=1, rate=50, seed=1)
    before, after = Graph(trained_lite), Graph(model)
    for a, b in zip(before.operations, after.operations):
        for x, y in zip(a.inputs[1:], b.inputs[1:]):
            if a.name in LINEAR:
                np.testing.assert_array_equal(before.constant(x), after.constant(y))
    for name, bounds in new_ranges.items():
        assert bounds == pytest.approx(ranges[name])


def test_zero_steps_change_nothing(trained_v1, photos):
    ranges, plan = _planned(trained_v1, photos[:16])
    model, new_ranges = _finetune(trained_v1, ranges, plan, photos[:16], steps=0)
    scores, wanted = (runner.scores(each, photos[:2]) for each in (model, trained_v1))
    np.testing.assert_array_equal(scores, wanted)
    assert new_ranges == ranges


@pytest.mark.slow
def test_same_seed_gives_the_same_ranges(trained_lite, photos):
    ranges, plan = _planned(trained_lite, photos[:16])
    (_, first), (_, second) = (
        _finetune(trained_lite, ranges, plan, photos[:16], steps=3, seed=4) for _ in range(2)
    )
    for name, bounds in second.items():
        assert bounds == pytest.approx(first[name], rel=1e-4)


@pytest.mark.slow
def test_sigmoid_outputs_are_finetuned(sigmoid_content, images):
    ranges, plan = _planned(sigmoid_content, images)
    lines = []
    schedule = Schedule(block_steps=0, steps=2)
    finetuning.finetune(sigmoid_content, ranges, plan, images, schedule, log=lines.append)
    assert lines[0].startswith("  scores: KL divergence ")


def test_unsupported_operations_are_errors_before_training(trained_v1, photos):
    graph = Graph(trained_v1)
    last = graph.operations[-1]
    output = graph.add_tensor("exp", graph.shape(last.inputs[0]))
    graph.insert(last, "EXP", (last.inputs[0],), output)
    graph.rewire(last, last.inputs[0], output)
    ranges, plan = _planned(graph.content(), photos[:16])
    lines = []
    with pytest.raises(ValueError, match=r"does not support the operation EXP"):
        finetuning.finetune(graph.content(), ranges, plan, photos[:16], log=lines.append)
    assert lines == []
