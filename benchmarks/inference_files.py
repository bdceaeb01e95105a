"""The files that benchmarks/inference.py runs: one network in every format.

The weights are random and tame (activations of order one), since the values do not change the time.
The images for int8 ranges are random, too.
"""

from __future__ import annotations

import os
import pathlib
import sys
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Network:
    """A network, and its name in timm."""

    name: str
    size: int  # pixels per side
    timm: str


NETWORKS = {
    row.name: row
    for row in (
        Network("efficientnet-b0", 224, "tf_efficientnet_b0"),
        Network("efficientnetv2-b0", 224, "tf_efficientnetv2_b0"),
        Network("efficientnet-b3", 300, "tf_efficientnet_b3"),
        Network("efficientnetv2-s", 384, "tf_efficientnetv2_s"),
    )
}
ENDINGS = (".keras", ".tflite", "-int8.tflite", ".onnx", "-int8.onnx")


def random_images(count, size, seed=0):
    """uint8 (count, size, size, 3): random colors in squares of 16 pixels."""
    import numpy as np

    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, -(-size // 16), -(-size // 16), 3), dtype=np.uint8)
    return coarse.repeat(16, 1).repeat(16, 2)[:, :size, :size]


def write_files(network: Network, folder: str) -> None:
    """Writes the files of a network that `folder` does not have."""
    if all(os.path.exists(path_of(network, folder, ending)) for ending in ENDINGS):
        return
    import keras

    import keras_effnet
    import tflite
    from tools.foreign import tame

    os.makedirs(folder, exist_ok=True)
    model = keras_effnet.create_model(
        network.name, weights=None, input_shape=(network.size, network.size, 3)
    )
    tame(model)
    model.save(path_of(network, folder, ".keras"))
    images = random_images(CALIBRATION_IMAGES, network.size)
    keras_effnet.export_onnx(model, path_of(network, folder, ".onnx"), verbose=False)
    _quantize_onnx(network, folder, images)
    float32_model = tflite.export_float32(model)
    keras.backend.clear_session()
    conversion = tflite.convert(
        float32_model, calibration=images, search_evaluations=0, cache=False, log=print
    )
    _write(path_of(network, folder, ".tflite"), float32_model)
    _write(path_of(network, folder, "-int8.tflite"), conversion.tflite_model)


def path_of(network: Network, folder: str, ending: str) -> str:
    """The path of a network's file; the ending is one of ``ENDINGS``."""
    return os.path.join(folder, f"{network.name}{ending}")


def _write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def _quantize_onnx(network, folder, images):
    """ONNX Runtime's static quantization as its documentation has it: preprocessed, QDQ format,
    int8 weights per channel, min-max ranges.
    """
    import numpy as np
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name):
            self.rows = iter([{name: image[None].astype(np.float32)} for image in images])

        def get_next(self):
            return next(self.rows, None)

    import onnx

    source = path_of(network, folder, ".onnx")
    prepared = path_of(network, folder, "-prepared.onnx")
    quant_pre_process(source, prepared)
    name = onnx.load(prepared).graph.input[0].name
    quantization.quantize_static(
        prepared,
        path_of(network, folder, "-int8.onnx"),
        Reader(name),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
    )
    os.remove(prepared)
