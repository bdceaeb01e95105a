"""A network that trains in a second or two, for --model=tests.tpu_train.networks:conv_network."""

import keras


def conv_network(weights, input_tensor, classes, classifier_activation):
    """One convolution, a batch norm and dropout, with keras.applications' arguments."""
    assert weights is None
    x = keras.layers.Conv2D(4, 3, strides=4, use_bias=False, name="conv")(input_tensor)
    x = keras.layers.BatchNormalization(momentum=0.8, name="bn")(x)
    x = keras.layers.Activation("swish")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2, name="top")(x)
    x = keras.layers.Dense(classes, activation=classifier_activation, name="head")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)
