"""Training of EfficientNets with progressive learning on every tf.distribute strategy.

Recipe -> phases -> loop: :mod:`tpu_train.recipes.table` says how a network is trained,
:mod:`tpu_train.recipes.phases` resolves it into phases (pure, printable), and
:mod:`tpu_train.training.run` trains them.
"""

import os

# TensorFlow reads it when it is imported. By itself it takes oneDNN, on x86, only on processors
# with AVX-512 VNNI; on one without, the trainer's step is almost three times faster with it
# (docs/results/step-throughput.md).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
