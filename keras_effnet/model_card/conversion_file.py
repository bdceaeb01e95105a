"""What the report of a conversion (``my.tflite.json``) states, for a card."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from keras_effnet.model_card.file_text import without_folders
from keras_effnet.model_card.json_fields import (
    DAMAGED,
    count,
    interval,
    number,
    numbers,
    optional,
    read_object,
    string,
)


def read_conversion(path: str, content: bytes) -> dict:
    """:func:`describe_conversion` of the report at `path` of the ``.tflite`` with that content.

    Raises ``ValueError`` for a file that is no such report, or that of another ``.tflite``.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} does not exist: a card of a .tflite needs the report that effnet-tflite wrote "
            "beside it"
        )
    try:
        described = describe_conversion(read_object(path))
    except DAMAGED as error:
        raise ValueError(f"{path} is not a report of effnet-tflite ({error})") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if described["sha256"] != sha256:
        raise ValueError(
            f"{path} is the report of another file: it states the SHA-256 {described['sha256']}, "
            f"the .tflite has {sha256}. Convert again"
        )
    return described


def describe_conversion(record: Mapping) -> dict:
    """The facts of a conversion's report that a card shows, in JSON types.

    "preset", "sha256", "float_model", "float_model_sha256", "date", "versions", "calibration"
    (source, images, preprocessing), "steps" (names of those that were kept), "float32_regions",
    "warnings" and "comparison": the report's figures of the float32 and the converted model.
    """
    origin = record.get("origin") or {}
    calibration = record.get("calibration")
    report = record.get("report")
    return {
        "preset": string(record["preset"]),
        "sha256": optional(string, record.get("sha256")),
        "float_model": optional(string, origin.get("model") or None),
        "float_model_sha256": optional(string, origin.get("model_sha256")),
        "date": optional(string, origin.get("date")),
        "versions": dict(origin.get("versions") or {}),
        "calibration": calibration
        and {
            "source": without_folders(string(calibration["source"])),
            "images": count(calibration["images"]),
            "preprocessing": optional(string, calibration.get("preprocessing")),
        },
        "steps": [string(s["name"]) for s in record["quantization_steps"] if s["kept"]],
        "float32_regions": [string(region["name"]) for region in record["float32_regions"]],
        "warnings": [string(warning) for warning in record["warnings"]],
        "comparison": report and _comparison(report),
    }


def _comparison(report):
    if report.get("agreement") is None or not report.get("candidate"):
        return None  # only the float model, or outputs that are no class scores
    return {
        "images": count(report["images"]),
        "source": without_folders(string(report["source"])),
        "machine": string(report["machine"]),
        "float32": _model(report["reference"]),
        "converted": _model(report["candidate"]),
        "agreement": number(report["agreement"]),
        "agreement_interval": optional(interval, report["agreement_confidence_interval"]),
        "drop_points": report["drop"] and number(report["drop"]["points"]),
        "drop_interval": report["drop"] and interval(report["drop"]["confidence_interval"]),
    }


def _model(measured):
    return {
        **numbers(measured, ("top1", "top5")),
        "size": count(measured["size"]),
        "latency_ms": number(measured["latency_ms"]),
    }
