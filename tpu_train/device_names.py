"""Values of ``--device``, without TensorFlow: commands check their flags before they import it."""

DEVICES = ("auto", "tpu", "gpu", "cpu", "multi-worker")
