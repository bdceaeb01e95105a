"""Presets: the precisions of a converted model. Imports neither TensorFlow nor LiteRT."""

from __future__ import annotations

from dataclasses import dataclass

from keras_effnet.suggestions import unknown_name


@dataclass(frozen=True)
class Preset:
    """The number types of a file. Pixels are in [0, 255] for all of them."""

    name: str
    weights: str  # "float32" | "float16" | "int8"
    activations: str  # "float32" | "int8" | "int16"
    input: str  # "float32" | "uint8"
    output: str  # "float32" | "uint8"
    purpose: str
    warning: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration images."""
        return self.activations != "float32"

    @property
    def takes_images(self) -> bool:
        """Whether it can use calibration images: they improve the rounding of int8 weights."""
        return self.weights == "int8"


# fmt: off
PRESETS = {p.name: p for p in (
    Preset("float32",     "float32", "float32", "float32", "float32",
           "any device; reference"),
    Preset("float16",     "float16", "float32", "float32", "float32",
           "GPU delegate; half the size"),
    Preset("weight_only", "int8",    "float32", "float32", "float32",
           "a quarter of the size, latency of float32"),
    Preset("int8",        "int8",    "int8",    "uint8",   "float32",
           "mobile CPUs: int8 except for the scores"),
    Preset("int8_mixed",  "int8",    "int8",    "uint8",   "float32",
           "int8 except for the float32 regions that an accuracy budget needs"),
    Preset("int8_strict", "int8",    "int8",    "uint8",   "uint8",
           "EdgeTPU, NPUs of microcontrollers: int8 only"),
    Preset("int16x8",     "int8",    "int16",   "float32", "float32",
           "NPUs with 16-bit activations",
           "int16 has no fast CPU kernel: expect tens of times the latency of float32"),
)}
# fmt: on


def find_preset(name: str) -> Preset:
    """The preset of that name; ``ValueError`` with the nearest name for an unknown one."""
    if name not in PRESETS:
        raise ValueError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]
