"""Layers that are faster on a CPU than Keras's own, with the same results up to rounding.

TensorFlow computes swish in three operations and its gradient in eight, each of which reads and
writes all activations; XLA compiles either into one loop. Its convolutions are slow on a CPU, so
it does not compile the whole step.

oneDNN has no depthwise kernel for the gradient of a filter wider than 3 pixels (``kw <= 3`` in its
``jit_uni_dw_conv_kernel_utils.cpp``), and takes one that is meant for groups of 16 channels. Here
such a filter is several filters beside each other.
"""

from __future__ import annotations

import keras
import tensorflow as tf

_KERNEL_WIDTH = 3  # the widest filter for which oneDNN has a depthwise kernel


@tf.function(jit_compile=True, autograph=False)
def _swish(x):
    return x * tf.sigmoid(x)


@tf.function(jit_compile=True, autograph=False)
def _swish_gradient(x, gradient):
    sigmoid = tf.sigmoid(x)
    return gradient * sigmoid * (1 + x * (1 - sigmoid))


@tf.custom_gradient
def swish(x):
    """``x * sigmoid(x)``, of which only `x` is kept for the gradient."""
    return _swish(x), lambda gradient: _swish_gradient(x, gradient)


class CompiledSwish(keras.layers.Activation):
    """The activation swish."""

    def call(self, inputs):
        """Inputs of any shape."""
        return swish(inputs)


class SplitDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution whose filter's gradient is computed 3 columns at a time."""

    def call(self, inputs):
        """Inputs of shape (batch, height, width, channels), with a static height and width."""
        kernel = self.depthwise_kernel if hasattr(self, "depthwise_kernel") else self.kernel
        kernel = tf.cast(tf.convert_to_tensor(kernel), inputs.dtype)
        return _depthwise_conv(inputs, kernel, tuple(self.strides), self.padding.upper())


def _depthwise_conv(inputs, kernel, strides, padding):
    shape, steps = tf.shape(inputs), [1, *strides, 1]

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(gradient):
            of_inputs = tf.nn.depthwise_conv2d_backprop_input(
                shape, kernel, gradient, steps, padding
            )
            return of_inputs, _filter_gradient(inputs, kernel.shape, gradient, strides, padding)

        return tf.nn.depthwise_conv2d(inputs, kernel, steps, padding), gradients

    return convolve(inputs, kernel)


def _filter_gradient(inputs, kernel_shape, gradient, strides, padding):
    """The gradient of a depthwise filter, from parts of at most 3 columns of it."""
    height, width, channels, _ = kernel_shape
    pads = ((0, 0), (0, 0))
    if padding == "SAME":
        sizes = zip(inputs.shape[1:3], gradient.shape[1:3], (height, width), strides)
        totals = [max((out - 1) * step + kernel - size, 0) for size, out, kernel, step in sizes]
        pads = tuple((total // 2, total - total // 2) for total in totals)
    columns = [min(_KERNEL_WIDTH, width - i) for i in range(0, width, _KERNEL_WIDTH)]
    reach = (gradient.shape[2] - 1) * strides[1]  # from the first to the last place of a column
    parts = _under_columns(inputs, pads, tuple(reach + n for n in columns))
    gradients = [
        tf.nn.depthwise_conv2d_backprop_filter(
            part, [height, n, channels, 1], gradient, [1, *strides, 1], "VALID"
        )
        for part, n in zip(parts, columns)
    ]
    return tf.concat(gradients, 1)


@tf.function(jit_compile=True, autograph=False)  # one pass in place of one for every part
def _under_columns(inputs, pads, widths):
    """The padded pixels that each part of a filter covers, (batch, height, its width, channels)."""
    padded = tf.pad(inputs, ((0, 0), *pads, (0, 0)))
    return [padded[:, :, i * _KERNEL_WIDTH :][:, :, :width] for i, width in enumerate(widths)]


def faster_layer(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """A new layer of this module that replaces `layer`, with the same configuration; or None."""
    config = layer.get_config()
    if type(layer) is keras.layers.Activation and config["activation"] in ("swish", "silu"):
        return CompiledSwish.from_config(config)
    if (
        type(layer) is keras.layers.DepthwiseConv2D
        and layer.kernel_size[1] > _KERNEL_WIDTH
        and layer.data_format == "channels_last"
        and not layer.use_bias
        and config["activation"] == "linear"
        and config["depth_multiplier"] == 1
        and tuple(layer.dilation_rate) == (1, 1)
    ):
        return SplitDepthwiseConv2D.from_config(config)
    return None
