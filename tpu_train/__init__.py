"""Training of EfficientNets with progressive learning on every tf.distribute strategy.

Recipe -> phases -> loop: :mod:`tpu_train.recipes` says how a network is trained,
:mod:`tpu_train.phases` resolves it into phases (pure, printable), :mod:`tpu_train.train` walks
them.
"""
