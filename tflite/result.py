"""What a conversion gives: the file, what it was made of, how it does; and how it is saved."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from keras_effnet import atomic_write
from tflite.evaluation.accuracy import EvaluationReport
from tflite.evaluation.comparison import Comparison
from tflite.flatbuffer import ops
from tflite.quantization import pipeline, range_search
from tflite.quantization.mixed_precision import Budget
from tflite.quantization.quantizer import QuantPlan
from tflite.report import render

_LARGE = 30e6  # bytes


@dataclass(frozen=True)
class Conversion:
    """A converted model, what it was made of, and how it does."""

    preset: str
    tflite: bytes
    float32_model: bytes  # the same but for metadata in preset "float32"
    plan: QuantPlan
    ranges: "dict | None"  # {tensor: {"min", "max"}}; None without calibration
    report: "EvaluationReport | None"  # float against converted; None without images
    skipped: "tuple[str, ...]"  # images that could not be decoded
    remedies: "tuple[pipeline.QuantizationStep, ...]" = ()
    islands: "tuple[range_search.Float32Region, ...]" = ()
    calibration: "dict | None" = None  # the manifest: source, images, sha256, files
    budget: "Budget | None" = None  # of int8_mixed
    comparison: "Comparison | None" = None  # all of it; None without images, and in "float32"
    images: "np.ndarray | None" = None  # that it was made on
    class_names: "tuple[str, ...] | None" = None
    prepared: "bytes | None" = None  # float32, the same answers, with the tensors of `tflite`

    @property
    def warnings(self):
        """What its user should know, a sentence each."""
        found = [self.plan.preset.warning] if self.plan.preset.warning else []
        if len(self.tflite) > _LARGE:
            found.append(
                f"the file has {len(self.tflite) / 1e6:.0f} MB, much for an app: B0 to B3 and Lite "
                "are made for phones"
            )
        seen = self.report
        if self.budget is not None and seen is not None and seen.candidate is not None:
            missed = self.budget.missed(seen.agreement, seen.drop and seen.drop.points)
            if missed:
                found.append(
                    f"the budget ({self.budget}) is met on the held-out images, and not "
                    f"on {seen.source}: {missed}"
                )
        return tuple(found)

    def as_dict(self):
        """What the JSON report holds: numbers, strings, lists and dictionaries only."""
        rows = [dataclasses.asdict(row) for row in self.remedies]
        for row in rows:
            if not row.pop("kept"):
                row["name"] += " (not kept)"
            if row["kl"] == float("inf"):
                row["kl"], row["what"] = None, f"{row['what']}: a file that does not run"
        islands = [
            {"name": i.name, "ops": len(i.outputs), "gain": i.kl, "latency_ms": i.latency_ms}
            | {"why": i.why}
            for i in self.islands
        ]
        return {
            "preset": self.preset,
            "size": len(self.tflite),
            "ops": ops.count_ops(ops.read_ops(self.tflite)),
            "plan": str(self.plan).splitlines(),
            "remedies": rows,
            "islands": islands,
            "calibration": self.calibration,
            "warnings": list(self.warnings),
            "report": None if self.report is None else self.report.as_dict(),
            "comparison": None if self.comparison is None else self.comparison.as_dict(),
            "skipped_images": list(self.skipped),
        }


def save(conversion, path, *, class_names=None):
    """Writes the .tflite, its report ``<path>.json`` and, where it was compared, ``<path>.html``,
    and ``<path>.labels.txt`` if there are names.

    All are written aside and moved into place, the .tflite last: a .tflite that is there is whole.
    """
    path = atomic_write.check_writable(path)
    record = conversion.as_dict()
    files = {f"{path}.json": json.dumps(record, indent=2).encode() + b"\n"}
    if conversion.comparison is not None:
        files[f"{path}.html"] = render.render(
            conversion.comparison,
            record=record,
            images=conversion.images,
            class_names=conversion.class_names,
        ).encode()
    if class_names is not None:
        files[f"{path}.labels.txt"] = "".join(f"{name}\n" for name in class_names).encode()
    files[path] = conversion.tflite
    atomic_write.write_files(files)
