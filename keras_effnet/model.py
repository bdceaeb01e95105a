"""Plan -> keras.Model: follows the plan with stock layers only, and derives nothing.

Layers have the names of keras.applications, by which weights are assigned. Intentional
differences: one ``normalization`` layer with its constants in the configuration (never in the
weights); ``padding="same"`` instead of a padding computed from the static size, which is wrong for
odd sizes (a plan with symmetric padding has ``_pad`` layers of fixed width); a ``drop`` layer in
every residual block and a ``top_dropout`` even at rate 0, so that the graph does not depend on the
rates; and float32 under every mixed-precision policy for the pixels, up to the first convolution,
and for the classifier.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_effnet.onnx_export import exportable

# The official initializers. Configurations, not objects: each layer must draw different numbers.
_CONV_INIT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}
_DENSE_INIT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.0 / 3.0, "mode": "fan_out", "distribution": "uniform"},
}


def build(
    plan,
    *,
    include_top,
    inputs,
    pooling,
    classes,
    classifier_activation,
    include_preprocessing,
    preprocessing,
    name,
):
    """A functional ``keras.Model`` of the plan with random weights.

    `inputs` is a 4-D Keras tensor of images. The first layer is an identity whose name stores
    `preprocessing` in every file of the model.
    """
    axis = -1 if keras.backend.image_data_format() == "channels_last" else 1
    net = _Layers(plan, axis)

    # float32: bfloat16 would round resized pixels to whole grey levels
    x = layers.Activation("linear", dtype="float32", name=preprocessing.layer_name)(inputs)
    if include_preprocessing:
        x = _normalization(plan.normalization, channels=inputs.shape[axis], axis=axis)(x)
    x = net.conv_bn(x, "stem_conv", "stem_bn", plan.stem_filters, plan.stem_kernel_size, stride=2)
    x = net.activation(x, "stem_activation")
    if plan.stem_pool:
        x, padding = net.padded(x, "stem_pool", kernel_size=3, stride=2)
        x = layers.MaxPooling2D(3, strides=2, padding=padding, name="stem_pool")(x)
    for block in plan.blocks:
        x = net.block(x, block)
    if plan.head_filters:
        x = net.conv_bn(x, "top_conv", "top_bn", plan.head_filters)
        x = net.activation(x, "top_activation")

    if include_top or pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    if include_top:
        x = layers.Dropout(plan.dropout_rate, name="top_dropout")(x)
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=_DENSE_INIT,
            dtype="float32",  # a float16 softmax over 1000 classes loses the small ones
            name="predictions",
        )(x)
    sources = keras.utils.get_source_inputs(inputs)
    # not a list for one input: Keras would warn when the model is called with a tensor
    return exportable(keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name))


class _Layers:
    """Creates layers with the plan's activation, batch norm and channel axis."""

    def __init__(self, plan, axis):
        self.plan, self.axis = plan, axis

    def activation(self, x, name):
        return layers.Activation(self.plan.activation, name=name)(x)

    def batch_norm(self, x, name):
        p = self.plan
        return layers.BatchNormalization(
            axis=self.axis, momentum=p.bn_momentum, epsilon=p.bn_epsilon, name=name
        )(x)

    def padded(self, x, name, kernel_size, stride):
        """(`x`, the ``padding`` of the layer of that name); `x` is padded if necessary."""
        # at stride 1, and for kernels of one pixel, both paddings are the same
        if stride == 1 or kernel_size == 1 or self.plan.padding == "same":
            return x, "same"
        return layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x), "valid"

    def conv_bn(self, x, conv_name, bn_name, filters, kernel_size=1, stride=1):
        x, padding = self.padded(x, conv_name, kernel_size, stride)
        x = layers.Conv2D(
            filters,
            kernel_size,
            strides=stride,
            padding=padding,
            use_bias=False,
            kernel_initializer=_CONV_INIT,
            name=conv_name,
        )(x)
        return self.batch_norm(x, bn_name)

    def block(self, inputs, b):
        """One block of the plan."""
        return self.bottleneck(inputs, b) if b.op == "bottleneck" else self.mbconv(inputs, b)

    def mbconv(self, inputs, b):
        """An MBConv or Fused-MBConv block, which is linear at its end."""
        x = inputs
        fused = b.op == "fused"
        if b.expands:
            size, stride = (b.kernel_size, b.stride) if fused else (1, 1)
            x = self.conv_bn(
                x, f"{b.name}_expand_conv", f"{b.name}_expand_bn", b.expand_filters, size, stride
            )
            x = self.activation(x, f"{b.name}_expand_activation")
        if not fused:
            name = f"{b.name}_{self.plan.depthwise_name}"
            x, padding = self.padded(x, name, b.kernel_size, b.stride)
            x = layers.DepthwiseConv2D(
                b.kernel_size,
                strides=b.stride,
                padding=padding,
                use_bias=False,
                depthwise_initializer=_CONV_INIT,
                name=name,
            )(x)
            x = self.batch_norm(x, f"{b.name}_bn")
            x = self.activation(x, f"{b.name}_activation")
        if b.se_filters:
            x = self.squeeze_excite(x, b)
        project_is_spatial = fused and not b.expands
        size, stride = (b.kernel_size, b.stride) if project_is_spatial else (1, 1)
        x = self.conv_bn(
            x, f"{b.name}_project_conv", f"{b.name}_project_bn", b.out_filters, size, stride
        )
        if project_is_spatial:
            x = self.activation(x, f"{b.name}_project_activation")
        return self.add(inputs, x, b) if b.residual else x

    def bottleneck(self, inputs, b):
        """ResNet's bottleneck block, with an activation after the addition."""
        x = self.conv_bn(inputs, f"{b.name}_reduce_conv", f"{b.name}_reduce_bn", b.expand_filters)
        x = self.activation(x, f"{b.name}_reduce_activation")
        x = self.conv_bn(
            x, f"{b.name}_conv", f"{b.name}_bn", b.expand_filters, b.kernel_size, b.stride
        )
        x = self.activation(x, f"{b.name}_activation")
        x = self.conv_bn(x, f"{b.name}_project_conv", f"{b.name}_project_bn", b.out_filters)
        shortcut = inputs
        if b.projects_shortcut:
            names = f"{b.name}_shortcut_conv", f"{b.name}_shortcut_bn"
            shortcut = self.conv_bn(inputs, *names, b.out_filters, 1, b.stride)
        return self.activation(self.add(shortcut, x, b), f"{b.name}_add_activation")

    def add(self, shortcut, x, b):
        """The sum of a block's shortcut and its branch, with stochastic depth."""
        x = layers.Dropout(b.drop_rate, noise_shape=(None, 1, 1, 1), name=f"{b.name}_drop")(x)
        # The shortcut first: Keras traverses a network recursively, first inputs first, and
        # through the branches L2 and XL exceed Python's recursion limit.
        return layers.Add(name=f"{b.name}_add")([shortcut, x])

    def squeeze_excite(self, x, b):
        shape = (b.expand_filters, 1, 1) if self.axis == 1 else (1, 1, b.expand_filters)
        se = layers.GlobalAveragePooling2D(name=f"{b.name}_se_squeeze")(x)
        se = layers.Reshape(shape, name=f"{b.name}_se_reshape")(se)
        for filters, activation, suffix in (
            (b.se_filters, self.plan.activation, "reduce"),
            (b.expand_filters, "sigmoid", "expand"),
        ):
            se = layers.Conv2D(
                filters,
                1,
                padding="same",
                activation=activation,
                kernel_initializer=_CONV_INIT,
                name=f"{b.name}_se_{suffix}",
            )(se)
        return layers.Multiply(name=f"{b.name}_se_excite")([x, se])


def _normalization(constants, channels, axis):
    """Normalizes pixels in [0, 255]; for other than 3 channels with the RGB constants' mean."""
    mean, std = constants.mean, constants.std
    if channels != 3:
        mean, std = (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels
    return layers.Normalization(
        axis=axis,
        mean=list(mean),
        variance=[s * s for s in std],
        dtype="float32",  # in bfloat16 the mean itself would be off by 0.2 grey levels
        name="normalization",
    )
