import dataclasses
import re

import pytest
import tensorflow as tf

from tests.tpu_train.noisy_student.conftest import write_teacher
from tpu_train.tpu_compile import lowering


def test_a_batch_that_does_not_divide_is_an_error_with_ones_that_do(tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, batch_size=100)
    with pytest.raises(ValueError, match=r"phase 1: batch_size 100 .* 8 replicas.*try 96 or 112"):
        lowering.build_training(recipe, 8, classes=4, examples=24)


def test_the_step_sums_over_all_cores_and_updates_variables_in_place(training):
    step = lowering.lower_step(training, training.phases[0], 2)
    groups = set(re.findall(r"replica_groups = dense<(\[\[.*?\]\])>", step.stablehlo))
    assert groups == {"[[0, 1, 2, 3]]"}
    gradients = sum(v.shape.num_elements() for v in training.state.trainable) * 4
    assert gradients < step.reduced_bytes < 2 * gradients
    assert step.stablehlo.count("may_alias") == len(training.state.variables)
    assert "tensor<2x32x32x3xui8>" in step.stablehlo
    assert "loc(" not in step.stablehlo
    assert "mhlo.copy" not in step.stablehlo
    assert "channel_handle" not in step.stablehlo


def test_the_step_has_the_forward_pass_of_the_teacher(newest_stack, tiny_recipe, tmp_path):
    path = str(write_teacher(tmp_path))
    recipe = dataclasses.replace(tiny_recipe, teacher=path)
    training = lowering.build_training(recipe, 4, classes=4, examples=24)
    step = lowering.lower_step(training, training.phases[0], 2)
    assert "tensor<3x4xf32>" in step.stablehlo  # its weights
    assert step.stablehlo.count("may_alias") == len(training.state.variables)
    with pytest.raises(ValueError, match=r"has 4 classes, and the plan is of 10: give --classes=4"):
        lowering.build_training(recipe, 4, classes=10, examples=24)


def _lower(replica_step):
    spec = {"image": tf.TensorSpec([4, 8], tf.float32)}
    return lowering._lower(replica_step, lowering._OneCoreStrategy(2), spec)


def test_a_host_callback_is_refused_with_its_name(newest_stack):
    def step(batch, step):
        return tf.py_function(lambda x: x.numpy().sum(), [batch["image"]], tf.float32)

    with pytest.raises(ValueError, match="cannot run on a TPU: TPUs have no operation 'EagerPyF"):
        _lower(step)


def test_a_dynamic_shape_is_refused_with_its_name(newest_stack):
    def step(batch, step):
        return tf.reduce_sum(tf.boolean_mask(batch["image"], batch["image"] > 0, name="brightest"))

    with pytest.raises(ValueError, match=r"dynamic shape, which a TPU cannot run: brightest/\w+"):
        _lower(step)


def test_all_reduce_accepts_only_sums(newest_stack):
    def step(batch, step):
        return tf.distribute.get_replica_context().all_reduce("MEAN", batch["image"])

    with pytest.raises(ValueError, match="all_reduce 'MEAN' is not supported"):
        _lower(step)
