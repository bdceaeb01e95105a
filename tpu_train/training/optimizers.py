"""Optimizers as update rules over plain variables, and gradient clipping; after the all-reduce.

Keras's optimizers clip before the all-reduce, start RMSprop from zeros where the papers start from
ones, and have other slots in Keras 2 than in Keras 3. A rule here is a few lines that update one
variable on one replica, given the gradient summed over all replicas. Names that begin with ``tfa_``
are tensorflow-addons' optimizers, for the environment that can still import it (TensorFlow 2.15).

The names are listed in :data:`tpu_train.recipes.schema.OPTIMIZERS`, and their settings (momentum,
...), which are the papers' unless a recipe states others, in ``OPTIMIZER_SETTINGS``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_effnet.suggestions import unknown_name
from tpu_train.recipes.schema import DEFAULT, OPTIMIZER_SETTINGS, OPTIMIZERS, Recipe


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of the variables of one network."""

    slots: list[tf.Variable]  # in a fixed order: with the step, its complete state
    # (strategy, gradients, learning_rate, step, weight_decay, indices=None) -> None
    apply: Callable


@dataclass(frozen=True)
class OptimizerRule:
    """The slots of a variable with their initial values, and its update."""

    slots: tuple[tuple[str, float], ...]
    # (variable, gradient, slots, learning_rate, step, decay, **settings) -> None. `decay` is None
    # for a variable without weight decay, which LAMB treats differently from a decay of 0.
    update: Callable


# TensorFlow's fused kernels are used where they exist: one operation per variable, on every device
# and under XLA. TensorFlow 1's optimizers ran the same kernels, and the graph is a tenth of that of
# separate operations.


def _rmsprop(variable, gradient, slots, learning_rate, step, decay, *, rho, momentum, epsilon):
    """TensorFlow 1's RMSprop, with epsilon inside the square root.

    Its settings are those of the EfficientNet papers (arXiv 1905.11946, 2104.00298).
    """
    mean_square, moving_average = slots
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyRMSProp(
        var=variable.handle,
        ms=mean_square.handle,
        mom=moving_average.handle,
        lr=learning_rate,
        rho=rho,
        momentum=momentum,
        epsilon=epsilon,
        grad=gradient,
    )


def _sgd(variable, gradient, slots, learning_rate, step, decay, *, momentum):
    """SGD with momentum, without Nesterov."""
    (accumulator,) = slots
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=accumulator.handle,
        lr=learning_rate,
        grad=gradient,
        momentum=momentum,
    )


def _adamw(variable, gradient, slots, learning_rate, step, decay, *, beta1, beta2, epsilon):
    """Adam (arXiv 1412.6980), and AdamW with decoupled weight decay (arXiv 1711.05101)."""
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.handle,
        v=second.handle,
        beta1_power=beta1**n,
        beta2_power=beta2**n,
        lr=learning_rate,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        grad=gradient,
    )


def _lion(variable, gradient, slots, learning_rate, step, decay, *, beta1, beta2):
    """Lion (Chen et al., arXiv 2302.06675, Algorithm 2)."""
    (momentum,) = slots
    _shrink(variable, learning_rate, decay)
    variable.assign_sub(learning_rate * tf.sign(beta1 * momentum + (1 - beta1) * gradient))
    momentum.assign(beta2 * momentum + (1 - beta2) * gradient)


def _lamb(variable, gradient, slots, learning_rate, step, decay, *, beta1, beta2, epsilon):
    """LAMB (You et al., arXiv 1904.00962, Algorithm 2).

    Weight decay is inside the trust ratio. Variables without decay take the unscaled step of Adam,
    as in tensorflow-addons: the norm of a batch norm's offset, which starts at 0, says nothing
    about its step.
    """
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    first.assign(beta1 * first + (1 - beta1) * gradient)
    second.assign(beta2 * second + (1 - beta2) * tf.square(gradient))
    update = first / (1 - beta1**n) / (tf.sqrt(second / (1 - beta2**n)) + epsilon)
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


_ADAM = OptimizerRule((("first_moment", 0.0), ("second_moment", 0.0)), _adamw)
RULES = {
    "rmsprop": OptimizerRule((("mean_square", 1.0), ("momentum", 0.0)), _rmsprop),
    "sgd": OptimizerRule((("momentum", 0.0),), _sgd),
    "adam": _ADAM,
    "adamw": _ADAM,
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


def settings_of(recipe: Recipe) -> dict[str, float]:
    """The settings of the recipe's optimizer: the recipe's values, else the optimizer's own.

    >>> from tpu_train.recipes.table import find_recipe
    >>> settings_of(find_recipe("efficientnet-b0"))
    {'rho': 0.9, 'momentum': 0.9, 'epsilon': 0.001}
    """
    return {
        name: value if getattr(recipe, name) == DEFAULT else getattr(recipe, name)
        for name, value in OPTIMIZER_SETTINGS.get(recipe.optimizer, {}).items()
    }


def make(
    name: str,
    variables: Sequence[tf.Variable],
    decayed: Sequence[bool],
    *,
    weight_decay_mode: str,
    settings: Mapping[str, float] | None = None,
    first_steps: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
) -> Optimizer:
    """An :class:`Optimizer` with new slots; call it in the strategy's scope.

    Call it after loading initial weights: the slow weights of tfa_lookahead start as a copy.

    Args:
        name: one of ``OPTIMIZERS``.
        variables: plain tf.Variables (mirrored ones under a strategy).
        decayed: for each of them, whether weight decay applies.
        weight_decay_mode: "l2" (already in the gradients: :func:`with_l2`) or "decoupled" (`apply`
            subtracts learning_rate * weight_decay * variable; LAMB inside its trust ratio).
        settings: of the optimizer, by name; by default ``OPTIMIZER_SETTINGS``.
        first_steps: the step in which each variable first trains, from which its optimizer's steps
            count (Adam's first steps are corrected for moments that start at 0); by default 0.
        rates: the learning rate of each variable, as a fraction of that of a step; by default 1.

    tensorflow-addons' optimizers have none of the last three.

    The `apply` of the result runs in cross-replica context (within ``merge_call``), eagerly or
    traced, also in a branch of a ``tf.cond``. It takes gradients summed over the replicas, a
    float32 scalar learning rate, a step that counts from 0 and a Python number as weight decay.
    The gradients are those of all variables, or of the ones at `indices`; the others do not change.
    """
    check(name)
    everything = range(len(variables))
    if name in ADDONS:
        slots, update = _addon(name, variables, decayed)
    else:
        rows = list(
            zip(
                variables,
                decayed,
                first_steps or [0 for _ in everything],
                rates or [1.0 for _ in everything],
            )
        )
        settings = OPTIMIZER_SETTINGS[name] if settings is None else settings
        slots, update = _by_rule(RULES[name], rows, settings)

    def apply(strategy, gradients, learning_rate, step, weight_decay, indices=everything):
        if weight_decay_mode == "l2" and weight_decay:
            raise ValueError(
                f"weight_decay {weight_decay} would be applied twice: with weight_decay_mode 'l2' "
                "it is in the gradients (with_l2); give 0 here"
            )
        update(strategy, gradients, learning_rate, step, weight_decay, indices)

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


def _by_rule(rule, rows, settings):
    """(Slots of all variables, a function that updates variables).

    `rows` are (variable, whether it decays, its first step, its part of the learning rate).
    """
    slots_by_variable = [
        [
            tf.Variable(tf.fill(v.shape, tf.cast(value, v.dtype)), trainable=False, name=slot)
            for slot, value in rule.slots
        ]
        for v, *_ in rows
    ]

    def update(strategy, gradients, learning_rate, step, weight_decay, indices):
        for i, gradient in zip(indices, gradients):
            variable, decays, first_step, rate = rows[i]

            def update_one(
                variable,
                gradient,
                learning_rate,
                step,
                *slots,
                _decay=weight_decay if decays else None,
            ):
                rule.update(variable, gradient, slots, learning_rate, step, _decay, **settings)

            its_rate = learning_rate if rate == 1 else rate * learning_rate
            its_step = step - first_step if first_step else step
            strategy.extended.update(
                variable,
                update_one,
                args=(gradient, its_rate, its_step, *slots_by_variable[i]),
                group=False,
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

    def update(strategy, gradients, learning_rate, step, weight_decay, indices):
        rates["learning_rate"] = learning_rate

        def shrink(variable, learning_rate):
            _shrink(variable, learning_rate, weight_decay)

        for i in indices:
            if decayed[i] and weight_decay:
                strategy.extended.update(variables[i], shrink, args=(learning_rate,), group=False)
        state = optimizer._prepare(variables)
        pairs = list(zip(gradients, (variables[i] for i in indices)))
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
