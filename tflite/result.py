"""Conversion result: model bytes, quantization plan, evaluation; saving to disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from keras_effnet import atomic_write
from keras_effnet.label_file import format_labels
from keras_effnet.litert import ops
from keras_effnet.model_card.card import make_conversion_card
from keras_effnet.model_card.output_files import default_path, render_files
from tflite.evaluation.accuracy import EvaluationReport
from tflite.evaluation.comparison import Comparison
from tflite.quantization import plan_file
from tflite.quantization.mixed_precision import Budget, Float32Region
from tflite.quantization.plan import QuantPlan
from tflite.quantization.step_selection import QuantizationStep
from tflite.report import comparison_sections, html_report, own_files, provenance

_LARGE = 30e6  # bytes


@dataclass(frozen=True)
class Conversion:
    """A converted model, how it was converted, and its evaluation."""

    preset: str
    tflite_model: bytes
    float32_model: bytes  # differs in metadata only for preset "float32"
    exact_model: bytes  # float32; the same function, with the tensors of `tflite_model`
    plan: QuantPlan
    ranges: dict | None = None  # {tensor: {"min", "max"}}; None without calibration
    quantization_steps: tuple[QuantizationStep, ...] = ()
    float32_regions: tuple[Float32Region, ...] = ()
    budget: Budget | None = None  # of int8_mixed
    calibration: dict | None = None  # manifest: source, images, sha256, files, preprocessing
    skipped_images: tuple[str, ...] = ()  # images that could not be decoded
    report: EvaluationReport | None = None  # float against converted; None without images
    comparison: Comparison | None = None  # all details; None without images, and for "float32"
    shown_images: Mapping[int, np.ndarray] = field(default_factory=dict)  # {index: image}
    class_names: tuple[str, ...] | None = None
    findings: tuple[str, ...] = ()  # about the float model: pixel range, logits, top-1 at chance

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user, one sentence each."""
        warnings = [self.plan.preset.warning] if self.plan.preset.warning else []
        if len(self.tflite_model) > _LARGE:
            warnings.append(
                f"the file has {len(self.tflite_model) / 1e6:.0f} MB, which is large for an app: "
                "B0 to B3 and Lite are designed for mobile devices"
            )
        warnings += self.findings
        report = self.report
        if self.budget is not None and report is not None and report.candidate is not None:
            missed = self.budget.missed(report.agreement, report.drop and report.drop.points)
            if missed:
                warnings.append(
                    f"the budget ({self.budget}) is met on the held-out images, but not on "
                    f"{report.source}: {missed}"
                )
        return tuple(warnings)

    def as_dict(self) -> dict:
        """The JSON report: numbers, strings, booleans, lists and dictionaries only."""
        return {
            "preset": self.preset,
            "size": len(self.tflite_model),
            "sha256": hashlib.sha256(self.tflite_model).hexdigest(),
            "ops": ops.count_ops(ops.read_ops(self.tflite_model)),
            "plan": str(self.plan).splitlines(),
            plan_file.KEY: plan_file.plan_json(self.plan, self.ranges),
            "quantization_steps": [step.as_dict() for step in self.quantization_steps],
            "float32_regions": [
                {**dataclasses.asdict(region), "outputs": list(region.outputs)}
                for region in self.float32_regions
            ],
            "calibration": self.calibration,
            "warnings": list(self.warnings),
            "report": None if self.report is None else self.report.as_dict(),
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "skipped_images": list(self.skipped_images),
        }


def shown_images(
    report: EvaluationReport | None, images: np.ndarray | None
) -> dict[int, np.ndarray]:
    """{index: image} of the images with changed predictions that the report shows."""
    if report is None or images is None:
        return {}
    return {
        row.index: images[row.index]
        for row in report.changed_predictions[: comparison_sections.PREVIEWS]
    }


def save(
    conversion: Conversion,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    model: str = "",
    command: str = "",
) -> list[str]:
    """Writes a conversion; returns the absolute paths of the files, in the order of writing.

    They are the report ``<path>.json``, ``<path>.html`` if the models were compared,
    ``<path>.labels.txt`` if `class_names` are given, the model card ``<path>.card.json`` and
    ``<path>.card.md`` of a classifier, and the .tflite. All files are written atomically, the
    .tflite last: if it exists, the others do, too. The reports state `model`, the path of the float
    model, and `command`, the command line, if they are given. If that path is in the work directory
    of a training, the card has its data and recipe.

    The report and the model card of an earlier conversion to `path` are removed if this one has
    none, as they describe another model. Labels stay: they may be the user's.

    Raises:
        ValueError: the path does not end in .tflite or cannot be written, or a file that is no
            .tflite or report is there.
        OSError: writing failed.
    """
    path = atomic_write.check_writable(path)
    if not path.endswith(".tflite"):  # the names of the other files depend on it
        raise ValueError(f"{path!r} must end in .tflite, e.g. {path}.tflite")
    origin = provenance.origin_of(path, model=model, command=command)
    record = {**conversion.as_dict(), "origin": origin}
    card = make_conversion_card(conversion.tflite_model, path, record, model, class_names)
    files = {f"{path}.json": json.dumps(record, indent=2) + "\n"}
    if conversion.comparison is not None:
        files[f"{path}.html"] = html_report.render(
            conversion.comparison,
            record=record,
            images=conversion.shown_images,
            class_names=conversion.class_names,
            origin=origin,
        )
    if class_names is not None:
        files[f"{path}.labels.txt"] = format_labels(class_names)
    if card is not None:
        files.update(render_files(card, default_path(path)))
    files[path] = conversion.tflite_model
    for each in files:
        if each != path:  # whose name is explicit enough
            own_files.check_replaceable(each)
    atomic_write.write_files(files)
    for each in own_files.conversion_files(path, compared=True, labels=False):
        if each not in files and own_files.is_own(each):
            os.unlink(each)
    return list(files)
