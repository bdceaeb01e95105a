"""Optimizers as update rules over plain variables, and gradient clipping; after the all-reduce.

Keras's optimizers clip before the all-reduce, start RMSprop from zeros where the papers start from
ones, and have other slots in Keras 2 than in Keras 3. A rule here is a few lines that update one
variable on one replica, given the gradient summed over all replicas. Hyperparameters such as
momentum are the papers', and constants: an optimizer with other ones is a new rule. Names that
begin with ``tfa_`` are tensorflow-addons' optimizers, for the environment that can still import it
(TensorFlow 2.15).

The names are listed in :data:`tpu_train.recipes.schema.OPTIMIZERS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_effnet.suggestions import unknown_name
from tpu_train.recipes.schema import OPTIMIZERS


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of the variables of one network."""

    slots: list[tf.Variable]  # in a fixed order: with the step, its complete state
    apply: Callable  # (strategy, gradients, learning_rate, step, weight_decay) -> None


@dataclass(frozen=True)
class OptimizerRule:
    """The slots of a variable with their initial values, and its update."""

    slots: tuple[tuple[str, float], ...]
    # (variable, gradient, slots, learning_rate, step, decay) -> None. `decay` is None for a
    # variable without weight decay, which LAMB treats differently from a decay of 0.
    update: Callable


# TensorFlow's fused kernels are used where they exist: one operation per variable, on every device
# and under XLA. TensorFlow 1's optimizers ran the same kernels, and the graph is a tenth of that of
# separate operations.


def _rmsprop(variable, gradient, slots, learning_rate, step, decay):
    """TensorFlow 1's RMSprop(decay 0.9, momentum 0.9, epsilon 1e-3 inside the square root).

    As in the EfficientNet papers (arXiv 1905.11946, 2104.00298).
    """
    mean_square, momentum = slots
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=mean_square.handle,
        mom=momentum.handle,
        lr=learning_rate,
        rho=0.9,
        momentum=0.9,
        epsilon=1e-3,
        grad=gradient,
    )


def _sgd(variable, gradient, slots, learning_rate, step, decay):
    """SGD with momentum 0.9, without Nesterov."""
    (momentum,) = slots
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle, accum=momentum.handle, lr=learning_rate, grad=gradient, momentum=0.9
    )


def _adamw(variable, gradient, slots, learning_rate, step, decay):
    """AdamW(0.9, 0.999, 1e-7): decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)."""
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    _shrink(variable, learning_rate, decay)
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


def _lion(variable, gradient, slots, learning_rate, step, decay):
    """Lion(0.9, 0.99) (Chen et al., arXiv 2302.06675, Algorithm 2)."""
    (momentum,) = slots
    _shrink(variable, learning_rate, decay)
    variable.assign_sub(learning_rate * tf.sign(0.9 * momentum + 0.1 * gradient))
    momentum.assign(0.99 * momentum + 0.01 * gradient)


def _lamb(variable, gradient, slots, learning_rate, step, decay):
    """LAMB(0.9, 0.999, 1e-6) (You et al., arXiv 1904.00962, Algorithm 2).

    Weight decay is inside the trust ratio. Variables without decay take the unscaled step of Adam,
    as in tensorflow-addons: the norm of a batch norm's offset, which starts at 0, says nothing
    about its step.
    """
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    first.assign(0.9 * first + 0.1 * gradient)
    second.assign(0.999 * second + 0.001 * tf.square(gradient))
    update = first / (1 - 0.9**n) / (tf.sqrt(second / (1 - 0.999**n)) + 1e-6)
    if decay is not None:
        update += decay * variable
        norm, update_norm = tf.norm(variable), tf.norm(update)
        trust_ratio = tf.math.divide_no_nan(norm, update_norm)
        update *= tf.where((norm > 0) & (update_norm > 0), trust_ratio, 1.0)
    variable.assign_sub(learning_rate * update)


def _shrink(variable, learning_rate, decay):
    """Decoupled weight decay."""
    if decay:
        variable.assign_sub(learning_rate * decay * variable)


RULES = {
    "rmsprop": OptimizerRule((("mean_square", 1.0), ("momentum", 0.0)), _rmsprop),
    "sgd": OptimizerRule((("momentum", 0.0),), _sgd),
    "adamw": OptimizerRule((("first_moment", 0.0), ("second_moment", 0.0)), _adamw),
    "lion": OptimizerRule((("momentum", 0.0),), _lion),
    "lamb": OptimizerRule((("first_moment", 0.0), ("second_moment", 0.0)), _lamb),
}
ADDONS = tuple(name for name in OPTIMIZERS if name.startswith("tfa_"))


def check(name: str) -> None:
    """Raises ``ValueError`` for an optimizer that is unknown or cannot be imported here."""
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if name in ADDONS:
        _import_addons(name)


def make(
    name: str,
    variables: Sequence[tf.Variable],
    decayed: Sequence[bool],
    *,
    weight_decay_mode: str,
) -> Optimizer:
    """An :class:`Optimizer` with new slots; call it in the strategy's scope.

    Call it after loading initial weights: the slow weights of tfa_lookahead start as a copy.

    Args:
        name: one of ``OPTIMIZERS``.
        variables: plain tf.Variables (mirrored ones under a strategy).
        decayed: for each of them, whether weight decay applies.
        weight_decay_mode: "l2" (already in the gradients: :func:`with_l2`) or "decoupled" (`apply`
            subtracts learning_rate * weight_decay * variable; LAMB inside its trust ratio).

    The `apply` of the result runs in cross-replica context (within ``merge_call``), eagerly or
    traced, also in a branch of a ``tf.cond``. It takes gradients summed over the replicas, a
    float32 scalar learning rate, a step that counts from 0 and a Python number as weight decay.
    """
    check(name)
    if name in ADDONS:
        slots, update = _addon(name, variables, decayed)
    else:
        slots, update = _by_rule(RULES[name], variables, decayed)

    def apply(strategy, gradients, learning_rate, step, weight_decay):
        if weight_decay_mode == "l2" and weight_decay:
            raise ValueError(
                f"weight_decay {weight_decay} would be applied twice: with weight_decay_mode 'l2' "
                "it is in the gradients (with_l2); give 0 here"
            )
        update(strategy, gradients, learning_rate, step, weight_decay)

    return Optimizer(slots, apply)


def with_l2(
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    decayed: Sequence[bool],
    weight_decay: float,
) -> list[tf.Tensor]:
    """Gradients of the loss plus weight_decay / 2 * the sum of squares of decayed variables."""
    if not weight_decay:
        return list(gradients)
    return [
        g + weight_decay * v if decay else g for g, v, decay in zip(gradients, variables, decayed)
    ]


def clip(gradients: list[tf.Tensor], norm: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """(Gradients scaled down to a global norm of at most `norm`, their global norm before).

    `norm` 0 is no limit.
    """
    global_norm = tf.linalg.global_norm(gradients)
    if norm == 0:
        return gradients, global_norm
    scale = norm / tf.maximum(global_norm, norm)
    return [g * scale for g in gradients], global_norm


def decays(variable_name: str, biases: bool = False) -> bool:
    """Whether weight decay applies to a variable: only to kernels, or with `biases` also to biases.

    Never to batch norm. Kernels only is the official code's rule for V2, with biases for V1.

    >>> [decays(name) for name in ("stem_conv/kernel", "top_bn/gamma:0", "predictions/bias")]
    [True, False, False]
    >>> decays("predictions/bias", biases=True)
    True
    """
    leaf = variable_name.split("/")[-1].split(":")[0]
    return leaf not in ("gamma", "beta") if biases else leaf.endswith("kernel")


def _by_rule(rule, variables, decayed):
    """(Slots of all variables, a function that updates the variables)."""
    slots_by_variable = [
        [
            tf.Variable(tf.fill(v.shape, tf.cast(value, v.dtype)), trainable=False, name=slot)
            for slot, value in rule.slots
        ]
        for v in variables
    ]

    def update(strategy, gradients, learning_rate, step, weight_decay):
        for variable, gradient, slots, decay in zip(
            variables, gradients, slots_by_variable, decayed
        ):

            def update_one(
                variable,
                gradient,
                learning_rate,
                step,
                *slots,
                _decay=weight_decay if decay else None,
            ):
                rule.update(variable, gradient, slots, learning_rate, step, _decay)

            strategy.extended.update(
                variable, update_one, args=(gradient, learning_rate, step, *slots), group=False
            )

    return [slot for slots in slots_by_variable for slot in slots], update


# tensorflow-addons' optimizers are legacy optimizers of Keras 2. Their apply_gradients refuses the
# cross-replica context, in which the gradients are summed and clipped, so the two private functions
# that it consists of are called. They will not change: that Keras receives no more releases.


def _addon(name, variables, decayed):
    """(Slots, update function) of a tensorflow-addons optimizer."""
    rates = {}  # read by the optimizer when it is applied or traced
    optimizer = _addon_optimizer(
        _import_addons(name).optimizers, name, lambda: rates["learning_rate"]
    )
    optimizer._create_all_weights(list(variables))
    slots = []
    for weight in optimizer.weights:
        if not any(weight is slot for slot in slots):
            slots.append(weight)

    def update(strategy, gradients, learning_rate, step, weight_decay):
        rates["learning_rate"] = learning_rate

        def shrink(variable, learning_rate):
            _shrink(variable, learning_rate, weight_decay)

        for variable, decay in zip(variables, decayed):
            if decay and weight_decay:
                strategy.extended.update(variable, shrink, args=(learning_rate,), group=False)
        state = optimizer._prepare(variables)
        pairs = list(zip(gradients, variables))
        optimizer._distributed_apply(strategy, pairs, state, name)

    return slots, update


def _addon_optimizer(addons, name, rate):
    """The tensorflow-addons optimizer of a name; `rate` is a function without arguments."""
    if name == "tfa_lookahead":
        inner = addons.RectifiedAdam(rate)
        # Half of the way every 6 steps, as in the paper (arXiv 1907.08610).
        optimizer = addons.Lookahead(inner)
        inner.iterations = optimizer.iterations
        return optimizer
    constructors = {
        "tfa_lazyadam": addons.LazyAdam,
        "tfa_novograd": addons.NovoGrad,
        "tfa_yogi": addons.Yogi,
    }
    return constructors[name](rate)


def _import_addons(name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its end of development
            import tensorflow_addons
    except ImportError as error:
        raise ValueError(
            f"Optimizer {name!r} needs tensorflow-addons, which cannot be imported here ({error}): "
            f"it requires TensorFlow 2.15, this is {tf.__version__}. Create a separate environment "
            'with Python 3.9 to 3.11 and run: pip install "keras_effnet[addons]". Optimizers '
            f"without it: {', '.join(RULES)}"
        ) from error
    return tensorflow_addons
