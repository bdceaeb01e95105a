import dataclasses

import numpy as np
import pytest

from tests.tpu_train.training.steps import PHASE, RECIPE, batches, network, replica_graph, start

CASES = {
    "groups divide an accumulation step": {"batch_norm_group_size": 2},
    "freeze": {},
    "no batch norm": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("why", CASES)
def test_accumulation_gives_the_same_losses_and_weights(why):
    """With mixing, dropout, clipping and weight decay; on one device and on two."""
    recipe = dataclasses.replace(
        RECIPE, optimizer="rmsprop", clip_norm=1.0, weight_decay=1e-3, **CASES[why]
    )
    model, data = network(norm=why != "no batch norm"), batches(4, mixed=True)
    reached = {}
    for accumulation, devices in ((1, "cpu"), (4, "cpu"), (2, "cpu:2")):
        freeze = "batch_norm" if why == "freeze" else "none"
        phase = dataclasses.replace(PHASE, accumulation=accumulation, freeze=freeze)
        trainer = start(model, data, recipe, phase, devices=devices, rate=0.01)
        reached[accumulation, devices] = [trainer.train() for _ in range(4)], trainer.weights()
    metrics, weights = reached.pop((1, "cpu"))
    assert not np.allclose(weights[0], model.get_weights()[0], rtol=1e-3)
    for other_metrics, other in reached.values():
        np.testing.assert_allclose(other_metrics, metrics, rtol=1e-5)
        for a, b in zip(other, weights):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.every_stack
def test_batch_norm_without_groups_depends_on_accumulation():
    """So the test above needs groups to get equal losses."""
    model, data = network(), batches(1)
    total = start(model, data).train()[0]
    per_replica = start(model, data, phase=dataclasses.replace(PHASE, accumulation=2)).train()[0]
    assert abs(total - per_replica) > 1e-4


@pytest.mark.every_stack
def test_accumulation_steps_run_one_after_the_other():
    """In parallel they would need the memory of the full batch."""
    phase = dataclasses.replace(PHASE, accumulation=2)
    graph = replica_graph(network(), RECIPE, phase)
    convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    assert len(convolutions) == 2
    backward = {op.name for op in graph.get_operations() if op.type == "Conv2DBackpropFilter"}
    visited, queue = set(), [convolutions[1]]
    while queue:
        op = queue.pop()
        if op.name not in visited:
            visited.add(op.name)
            queue += [t.op for t in op.inputs] + list(op.control_inputs)
    assert len(backward & visited) == 1
