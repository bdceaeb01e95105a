"""What the checks know about released versions and reported issues. Update it as a whole.

Checked on 2026-11-21.
"""

OLDEST_TENSORFLOW = "2.15"  # that this project supports
NEWEST_TENSORFLOW = "2.21"
NEWEST_PYTHON = (3, 13)  # that NEWEST_TENSORFLOW has wheels for

TPU_VERSION = "2.19.1"  # keras-team/keras, requirements-tensorflow-tpu.txt: the last with TPUs
TPU_PYTHON = (3, 12)  # the newest that TPU_VERSION has wheels for
TPU_LINKS = "--find-links=https://storage.googleapis.com/libtpu-tf-releases/index.html"

ADDONS_LAST_TENSORFLOW = "2.15"  # that tensorflow-addons 0.23, its last release, imports with

# Threads in which users reported the problem that a check detects.
AVX = "tensorflow#17411"
CUDA_LIBRARIES = "tensorflow#63362"
KERAS_3_ON_TPU = "keras-team/keras#19448, Kaggle/docker-python#1370"
LIBTPU_FROM_JAX = "jax-ml/jax#29989"
NO_TPU_KERNELS = "googlecolab/colabtools#5174, #5419; tensorflow#89797, #96203"
REMOTE_TPU_LOCAL_FILES = "tensorflow#36447"
TPU_IN_USE = "jax-ml/jax#10192"
TPU_RECIPE_2_18 = "googlecolab/colabtools#5419"
TWO_BUILDS = "googlecolab/colabtools#5174, tensorflow#96203"
