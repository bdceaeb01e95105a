"""How the images of another project's weights are prepared, and how each setting is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.network_plan import MIN_IMAGE_SIZE
from keras_effnet.pretrained.input_spec import InputSpec
from keras_effnet.variants import Normalization

WHOLE = "whole"  # a crop: the whole image, stretched
ASSUMED = "assumed"


@dataclass(frozen=True)
class GivenSettings:
    """What the caller states about the images of a file of weights; None: read or assumed."""

    image_size: int | None = None  # pixels a side
    crop: float | str | None = None  # in (0, 1], of the shorter side; or WHOLE
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None  # of RGB in [0, 255]
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Setting:
    """One setting and its origin."""

    name: str  # a field of GivenSettings; the flag of `effnet port` is --NAME
    value: object
    origin: str  # "given" | "read from ..." | ASSUMED

    @property
    def text(self) -> str:
        """The value."""
        if isinstance(self.value, tuple):
            return ", ".join(f"{x:g}" for x in self.value)
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} {self.text}"


@dataclass(frozen=True)
class InputSettings:
    """The preprocessing and normalization of a file of weights, and the origin of each setting."""

    preprocessing: Preprocessing
    normalization: Normalization
    settings: tuple[Setting, ...] = field(compare=False)

    @property
    def assumed(self) -> tuple[Setting, ...]:
        """The settings that nothing states."""
        return tuple(setting for setting in self.settings if setting.origin == ASSUMED)


def resolve_settings(
    given: GivenSettings, stated: InputSpec, config: Mapping, default: InputSpec
) -> InputSettings:
    """The settings: what the caller gives, or else the file, the config beside it, or the default.

    `stated` is what the file itself states, `config` that of ``timm_config.read_config``, and
    `default` what the project's weights usually expect. Raises ``ValueError`` for values that are
    out of range.

    >>> default = InputSpec(Preprocessing(224, 0.875, "bicubic"), Normalization((0,) * 3, (1,) * 3))
    >>> settings = resolve_settings(GivenSettings(image_size=96), InputSpec(), {}, default)
    >>> settings.preprocessing.image_size, [str(setting) for setting in settings.assumed[:2]]
    (96, ['crop 0.875', 'interpolation bicubic'])
    """
    sources = (
        ("given", vars(given)),
        ("read from the file", _fields(stated)),
        ("read from config.json", config),
        (ASSUMED, _fields(default)),
    )
    settings = []
    for name in vars(given):
        origin, values = next((o, v) for o, v in sources if v.get(name) is not None)
        settings.append(Setting(name, values[name], origin))
    size, crop, interpolation, mean, std = (setting.value for setting in settings)
    if size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size {size} is too small: give at least {MIN_IMAGE_SIZE} pixels")
    if not all(value > 0 for value in std):
        raise ValueError(f"std {std} is invalid: give positive numbers")
    return InputSettings(
        Preprocessing(size, None if crop == WHOLE else crop, interpolation),
        Normalization(tuple(mean), tuple(std)),
        tuple(settings),
    )


def _fields(spec):
    """{name of a setting: value or None} of an input spec."""
    fields = {"image_size": spec.image_size}
    if spec.preprocessing is not None:
        stored = spec.preprocessing
        fields["image_size"] = spec.image_size or stored.image_size
        fields["crop"] = WHOLE if stored.crop is None else stored.crop
        fields["interpolation"] = stored.interpolation
    if spec.normalization is not None:
        fields.update(mean=spec.normalization.mean, std=spec.normalization.std)
    return fields
