"""The optimizers as update rules over plain variables, and clipping: all after the all-reduce.

Keras's optimizers clip before the all-reduce and start RMSprop from zeros where the papers' starts
from ones; and their slots differ between Keras 2 and 3. A rule here is a few lines that say what
happens to one variable on one replica, given the gradient summed over all of them.
"""

from dataclasses import dataclass
from typing import Callable

import tensorflow as tf


@dataclass(frozen=True)
class Rule:
    """An optimizer: its slots with their initial values, and the update of one variable."""

    slots: tuple[tuple[str, float], ...]
    update: Callable  # (variable, gradient, slots, learning_rate, step, weight_decay) -> None


# TensorFlow's own fused kernels: one operation a variable, on every device and under XLA. They are
# what TensorFlow 1's optimizers ran, and a tenth of the graph of the same arithmetic spelt out.


def _rmsprop(variable, gradient, slots, learning_rate, step, weight_decay):
    """TensorFlow 1's: decay 0.9, momentum 0.9, epsilon 1e-3 in the root; L2 in the gradient."""
    mean_square, momentum = slots
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=mean_square.handle,
        mom=momentum.handle,
        lr=learning_rate,
        rho=0.9,
        momentum=0.9,
        epsilon=1e-3,
        grad=_with_l2(gradient, variable, weight_decay),
    )


def _sgd(variable, gradient, slots, learning_rate, step, weight_decay):
    """With momentum 0.9, L2 in the gradient."""
    (momentum,) = slots
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=momentum.handle,
        lr=learning_rate,
        grad=_with_l2(gradient, variable, weight_decay),
        momentum=0.9,
    )


def _adamw(variable, gradient, slots, learning_rate, step, weight_decay):
    """Adam(0.9, 0.999, 1e-7), decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)."""
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    if weight_decay:
        variable.assign_sub(learning_rate * weight_decay * variable)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.handle,
        v=second.handle,
        beta1_power=0.9**n,
        beta2_power=0.999**n,
        lr=learning_rate,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-7,
        grad=gradient,
    )


def _with_l2(gradient, variable, weight_decay):
    return gradient + weight_decay * variable if weight_decay else gradient


OPTIMIZERS = {
    "rmsprop": Rule((("mean_square", 1.0), ("momentum", 0.0)), _rmsprop),
    "sgd": Rule((("momentum", 0.0),), _sgd),
    "adamw": Rule((("first_moment", 0.0), ("second_moment", 0.0)), _adamw),
}


def create_slots(rule, variables):
    """One list of slot variables a variable; call it in the strategy's scope."""
    return [
        [
            tf.Variable(tf.fill(v.shape, tf.cast(value, v.dtype)), trainable=False, name=slot)
            for slot, value in rule.slots
        ]
        for v in variables
    ]


def clip(gradients, norm):
    """Gradients scaled down to a global norm of `norm` (0 for no limit), and the norm before."""
    global_norm = tf.linalg.global_norm(gradients)
    if norm == 0:
        return gradients, global_norm
    scale = norm / tf.maximum(global_norm, norm)
    return [g * scale for g in gradients], global_norm


def decays(variable_name):
    """Whether weight decay applies: to kernels, not to biases and batch-norm scales and offsets."""
    return variable_name.split("/")[-1].split(":")[0] in ("kernel", "depthwise_kernel")


def apply(strategy, rule, variables, gradients, slots, decayed, learning_rate, step, weight_decay):
    """Updates every variable on every replica; in cross-replica context (inside ``merge_call``)."""
    for variable, gradient, own, decay in zip(variables, gradients, slots, decayed):

        def update(variable, gradient, learning_rate, step, *own, _decay=decay):
            rule.update(
                variable, gradient, own, learning_rate, step, weight_decay if _decay else 0.0
            )

        strategy.extended.update(
            variable, update, args=(gradient, learning_rate, step, *own), group=False
        )
