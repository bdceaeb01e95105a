"""Options of a conversion that are rarely changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from keras_effnet.suggestions import unknown_name
from tflite.evaluation.user_metric import UserMetric
from tflite.presets import Preset
from tflite.quantization.plan_file import PlanFile, parse_plan, read_plan


@dataclass(frozen=True)
class ConversionOptions:
    """Options that ``tflite.convert`` also takes as keywords."""

    search_evaluations: int = 48  # models that each search may evaluate; 0: no searches
    max_corrupt: int = 10  # images per set that may fail to decode; they are skipped
    calibration_images: int | None = None  # at most; None: 512, and 2,048 for int8_mixed
    finetune: bool | None = None  # fine-tune against the float model; None: only int8_strict
    softmax: bool = False  # append a softmax to a network that ends in logits
    cache: bool = False  # keep calibrations in Keras's cache, and use them again
    recipe: PlanFile | None = None  # a plan that replaces precisions and ranges
    metric: UserMetric | None = None  # drives the steps in place of the KL divergence

    def __post_init__(self):
        for name, smallest in (
            ("max_corrupt", 0),
            ("calibration_images", 1),
            ("search_evaluations", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")

    @classmethod
    def from_keywords(cls, **keywords) -> ConversionOptions:
        """The options; ``TypeError`` with the nearest name for an unknown one."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in keywords:
            if name == "search_seconds":
                raise TypeError(
                    "search_seconds was replaced by search_evaluations, the number of models that "
                    f"each search may evaluate (default: {cls.search_evaluations}, 0: none): a "
                    "time limit gave other files on a busy machine"
                )
            if name not in names:
                raise TypeError(unknown_name("option", name, names))
        if not isinstance(keywords.get("metric"), (UserMetric, type(None))):
            keywords["metric"] = UserMetric.of(keywords["metric"])
        recipe = keywords.get("recipe")
        if isinstance(recipe, dict):
            keywords["recipe"] = parse_plan(recipe)
        elif not isinstance(recipe, (PlanFile, type(None))):
            keywords["recipe"] = read_plan(recipe)
        return cls(**keywords)

    def max_calibration_images(self, preset: Preset) -> int:
        """The largest number of calibration images to load."""
        if self.calibration_images is not None:
            return self.calibration_images
        return BUDGET_IMAGES if preset.name == "int8_mixed" else CALIBRATION_IMAGES

    def finetunes(self, preset: Preset) -> bool:
        """Whether to fine-tune a model of this preset."""
        return preset.name == "int8_strict" if self.finetune is None else self.finetune


CALIBRATION_IMAGES = 512
BUDGET_IMAGES = 2048
