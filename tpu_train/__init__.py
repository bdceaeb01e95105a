"""Training of EfficientNets with progressive learning on every tf.distribute strategy.

A recipe (:mod:`tpu_train.recipes`) resolves into phases, which can be printed;
:mod:`tpu_train.training.run` trains them, one traced step function a phase. The command line is
:mod:`tpu_train.cli`.
"""
