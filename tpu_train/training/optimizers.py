"""The optimizers as update rules over plain variables, and clipping: all after the all-reduce.

Keras's optimizers clip before the all-reduce and start RMSprop from zeros where the papers' starts
from ones; and their slots differ between Keras 2 and 3. A rule here is a few lines that say what
happens to one variable on one replica, given the gradient summed over all of them. Names that begin
with ``tfa_`` are tensorflow-addons' own, for the stack that still imports it (TensorFlow 2.15).
"""

import warnings
from dataclasses import dataclass
from typing import Callable

import tensorflow as tf

from keras_effnet.suggestions import unknown_name


@dataclass(frozen=True)
class Optimizer:
    """An optimizer at work on the variables of one network."""

    slots: list  # tf.Variables in a fixed order: with the step, all that a checkpoint needs of it
    apply: Callable  # (strategy, gradients, learning_rate, step, weight_decay) -> None


@dataclass(frozen=True)
class Rule:
    """The slots of a variable with their initial values, and its update."""

    slots: "tuple[tuple[str, float], ...]"
    # (variable, gradient, slots, learning_rate, step, decay) -> None; `decay` is None for a
    # variable without weight decay, so that LAMB can tell such a one from a decay of 0
    update: Callable


# TensorFlow's own fused kernels, where there is one: one operation a variable, on every device and
# under XLA. They are what TensorFlow 1's optimizers ran, and a tenth of the graph of the same
# arithmetic spelt out.


def _rmsprop(variable, gradient, slots, learning_rate, step, decay):
    """TensorFlow 1's: decay 0.9, momentum 0.9, epsilon 1e-3 in the root."""
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
    """With momentum 0.9."""
    (momentum,) = slots
    _shrink(variable, learning_rate, decay)
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle, accum=momentum.handle, lr=learning_rate, grad=gradient, momentum=0.9
    )


def _adamw(variable, gradient, slots, learning_rate, step, decay):
    """Adam(0.9, 0.999, 1e-7), decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)."""
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
    """LAMB(0.9, 0.999, 1e-6) (You et al., arXiv 1904.00962, Algorithm 2); decay within the ratio.

    Variables without decay take the step of Adam, unscaled, as tensorflow-addons': the norm of a
    batch norm's offset, which starts at 0, is no measure for its step.
    """
    first, second = slots
    n = tf.cast(step + 1, tf.float32)
    first.assign(0.9 * first + 0.1 * gradient)
    second.assign(0.999 * second + 0.001 * tf.square(gradient))
    move = first / (1 - 0.9**n) / (tf.sqrt(second / (1 - 0.999**n)) + 1e-6)
    if decay is not None:
        move += decay * variable
        norm, move_norm = tf.norm(variable), tf.norm(move)
        move *= tf.where((norm > 0) & (move_norm > 0), tf.math.divide_no_nan(norm, move_norm), 1.0)
    variable.assign_sub(learning_rate * move)


def _shrink(variable, learning_rate, decay):
    """Decoupled weight decay; what the gradient was taken at is no matter."""
    if decay:
        variable.assign_sub(learning_rate * decay * variable)


RULES = {
    "rmsprop": Rule((("mean_square", 1.0), ("momentum", 0.0)), _rmsprop),
    "sgd": Rule((("momentum", 0.0),), _sgd),
    "adamw": Rule((("first_moment", 0.0), ("second_moment", 0.0)), _adamw),
    "lion": Rule((("momentum", 0.0),), _lion),
    "lamb": Rule((("first_moment", 0.0), ("second_moment", 0.0)), _lamb),
}
ADDONS = ("tfa_lamb", "tfa_lazyadam", "tfa_novograd", "tfa_yogi", "tfa_lookahead")
OPTIMIZERS = (*RULES, *ADDONS)


def check(name):
    """Raises ``ValueError`` for an optimizer that there is not, or not in this environment."""
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if name in ADDONS:
        _import_addons(name)


def make(name, variables, decayed, *, weight_decay_mode):
    """An :class:`Optimizer` with new slots; call it in the strategy's scope.

    Call it after initial weights are loaded: tfa_lookahead's slow weights begin as a copy.

    Args:
        name: one of ``OPTIMIZERS``.
        variables: plain tf.Variables (mirrored ones under a strategy).
        decayed: for each of them whether weight decay applies.
        weight_decay_mode: "l2" (the gradients have it already: :func:`with_l2`) or "decoupled" (`apply`
            takes learning_rate * weight_decay * variable off, LAMB within its trust ratio).

    The `apply` of the result runs in cross-replica context (within ``merge_call``), eagerly or
    traced, also in a branch of a ``tf.cond``. Its gradients are those summed over the replicas,
    its learning rate is a float32 scalar, its step counts from 0 and its weight decay is a number.
    """
    check(name)
    if name in ADDONS:
        slots, update = _addon(name, variables, decayed)
    else:
        slots, update = _by_rule(RULES[name], variables, decayed)

    def apply(strategy, gradients, learning_rate, step, weight_decay):
        if weight_decay_mode == "l2" and weight_decay:
            raise ValueError(
                f"weight_decay {weight_decay} would count twice: with weight_decay_mode 'l2' it is in the "
                "gradients (with_l2); give 0 here"
            )
        update(strategy, gradients, learning_rate, step, weight_decay)

    return Optimizer(slots, apply)


def with_l2(gradients, variables, decayed, weight_decay):
    """Gradients of the loss plus weight_decay / 2 * the squares of decayed variables."""
    if not weight_decay:
        return gradients
    return [
        g + weight_decay * v if decay else g for g, v, decay in zip(gradients, variables, decayed)
    ]


def clip(gradients, norm):
    """Gradients scaled down to a global norm of `norm` (0 for no limit), and the norm before."""
    global_norm = tf.linalg.global_norm(gradients)
    if norm == 0:
        return gradients, global_norm
    scale = norm / tf.maximum(global_norm, norm)
    return [g * scale for g in gradients], global_norm


def decays(variable_name, biases=False):
    """Whether weight decay applies: to kernels; with `biases` to all but batch norm's variables.

    The latter is the official code's rule for V1, the former its rule for V2.

    >>> [decays(name) for name in ("stem_conv/kernel", "top_bn/gamma:0", "predictions/bias")]
    [True, False, False]
    >>> decays("predictions/bias", biases=True)
    True
    """
    leaf = variable_name.split("/")[-1].split(":")[0]
    return leaf not in ("gamma", "beta") if biases else leaf.endswith("kernel")


def _by_rule(rule, variables, decayed):
    """Slots and update of all variables, one by one."""
    owned = [
        [
            tf.Variable(tf.fill(v.shape, tf.cast(value, v.dtype)), trainable=False, name=slot)
            for slot, value in rule.slots
        ]
        for v in variables
    ]

    def update(strategy, gradients, learning_rate, step, weight_decay):
        for variable, gradient, own, decay in zip(variables, gradients, owned, decayed):

            def update_one(
                variable,
                gradient,
                learning_rate,
                step,
                *own,
                _decay=weight_decay if decay else None,
            ):
                rule.update(variable, gradient, own, learning_rate, step, _decay)

            strategy.extended.update(
                variable, update_one, args=(gradient, learning_rate, step, *own), group=False
            )

    return [slot for own in owned for slot in own], update


# tensorflow-addons' optimizers are Keras 2's legacy ones. Their apply_gradients refuses the
# cross-replica context, where the gradients are summed and clipped, so that its two halves are
# called instead; they are private, and frozen: that Keras has seen its last release.


def _addon(name, variables, decayed):
    """Slots and update of a tensorflow-addons optimizer."""
    now = {}  # the step's numbers; the optimizers ask for them when they apply or are traced
    groups = _addon_groups(_import_addons(name).optimizers, name, now, decayed)
    slots = []
    for optimizer, indices in groups:
        optimizer._create_all_weights([variables[i] for i in indices])
        slots += [w for w in optimizer.weights if not any(w is slot for slot in slots)]

    def update(strategy, gradients, learning_rate, step, weight_decay):
        now.update(learning_rate=learning_rate, weight_decay=weight_decay)

        def shrink(variable, learning_rate):
            _shrink(variable, learning_rate, weight_decay)

        for variable, decay in zip(variables, decayed):
            if decay and weight_decay and name != "tfa_lamb":
                strategy.extended.update(variable, shrink, args=(learning_rate,), group=False)
        for optimizer, indices in groups:
            pairs = [(gradients[i], variables[i]) for i in indices]
            state = optimizer._prepare([v for _, v in pairs])
            optimizer._distributed_apply(strategy, pairs, state, name)

    return slots, update


def _addon_groups(addons, name, now, decayed):
    """[(optimizer, indices of its variables), ...]; what it learns by comes from `now`."""

    def rate():
        return now["learning_rate"]

    everything = range(len(decayed))
    if name == "tfa_lamb":
        # One for the decayed and one for the others: its own way to tell them apart is by regular
        # expressions of names, and names need not differ.
        lamb = addons.LAMB(rate)
        lamb.weight_decay = lambda: now["weight_decay"]
        adam = addons.LAMB(rate, exclude_from_layer_adaptation=[""])
        groups = [(lamb, [i for i in everything if decayed[i]])]
        groups += [(adam, [i for i in everything if not decayed[i]])]
        return [(optimizer, indices) for optimizer, indices in groups if indices]
    if name == "tfa_lookahead":
        inner = addons.RectifiedAdam(rate)
        optimizer = addons.Lookahead(inner)  # every 6 steps half of the way, as its paper
        inner.iterations = optimizer.iterations
        return [(optimizer, everything)]
    plain = {"lazyadam": addons.LazyAdam, "novograd": addons.NovoGrad, "yogi": addons.Yogi}
    return [(plain[name[len("tfa_") :]](rate), everything)]


def _import_addons(name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is no longer developed
            import tensorflow_addons
    except ImportError as error:
        raise ValueError(
            f"Optimizer {name!r} is tensorflow-addons', which cannot be imported here ({error}): "
            f"it needs TensorFlow 2.15, this is {tf.__version__}. In an environment of its own, "
            'with Python 3.9 to 3.11: pip install "keras_effnet[addons]". Without it there are '
            f"{', '.join(RULES)}"
        ) from error
    return tensorflow_addons
