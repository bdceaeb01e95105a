"""What a .tflite can be made into, one row a preset (no TensorFlow, no LiteRT)."""

from dataclasses import dataclass

from keras_effnet.suggestions import unknown_name


@dataclass(frozen=True)
class Preset:
    """A number type for everything in the file. Pixels are in [0, 255] whatever their type."""

    name: str
    weights: str  # "float32" | "float16" | "int8"
    activations: str  # "float32" | "int8" | "int16"
    input: str  # "float32" | "uint8"
    output: str  # "float32" | "uint8"
    purpose: str
    warning: str = ""

    @property
    def calibrated(self):
        """Whether it needs calibration images."""
        return self.activations != "float32"

    @property
    def takes_images(self):
        """Whether it has a use for calibration images: where weights are int8, they are rounded by
        them.
        """
        return self.weights == "int8"


# fmt: off
PRESETS = {p.name: p for p in (
    Preset("float32",     "float32", "float32", "float32", "float32",
           "any device; the reference"),
    Preset("float16",     "float16", "float32", "float32", "float32",
           "GPU delegate; half the size"),
    Preset("weight_only", "int8",    "float32", "float32", "float32",
           "a quarter of the size, float's speed"),
    Preset("int8",        "int8",    "int8",    "uint8",   "float32",
           "Android's CPU: all int8 but the scores"),
    Preset("int8_mixed",  "int8",    "int8",    "uint8",   "float32",
           "int8 but for the islands of float that a budget takes"),
    Preset("int8_strict", "int8",    "int8",    "uint8",   "uint8",
           "EdgeTPU, NPUs of microcontrollers: int8 alone"),
    Preset("int16x8",     "int8",    "int16",   "float32", "float32",
           "NPUs that ask for 16-bit activations",
           "int16 activations have no fast kernel on a CPU: expect tens of times float's latency"),
)}
# fmt: on


def find_preset(name):
    """The row of that name; ``ValueError`` with the known ones otherwise."""
    if name not in PRESETS:
        raise ValueError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]
