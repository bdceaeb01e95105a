"""The quantization plan as JSON: written with every conversion, edited, and given back.

A conversion's .json has it under ``"quantization_plan"``; a file with nothing else has this form::

    {"preset": "int8", "ops": [
        {"output": "block1a_project_conv*", "precision": "float32"},
        {"output": "*", "op": "ADD", "range": [-6, 6]}]}

A row is for the op that writes the tensor ``output``, or for all ops whose output matches it as a
pattern (``*``, ``?``, ``[...]``) and that are of the kind ``op``, if it is given. The last row that
matches an op counts. ``precision`` is "float32", or the preset's: "int8", or "int16" for int16x8.
``range`` is (smallest, largest) value of the output. What no row states is as without the file.
The plan is applied after all quantization steps, which choose and learn as without it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keras_effnet.litert.ops import WITH_WEIGHTS
from keras_effnet.suggestions import did_you_mean, unknown_name
from tflite.presets import PRESETS, Preset
from tflite.quantization.plan import OpPlan, QuantPlan, can_quantize

KEY = "quantization_plan"
ADDED = "/unscaled"  # ending of the outputs that equalization adds
_KEYS = ("preset", "network", "ops")
_ROW_KEYS = ("output", "op", "precision", "range", "reason")
_PRECISIONS = ("float32", "int8", "int16")
_FACTOR = 64  # between a range that is given and the calibrated one
_FIXED = ("LOGISTIC", "SOFTMAX", "TANH")  # their kernels have fixed output ranges


@dataclass(frozen=True)
class PlanRow:
    """What a plan file states about one op, or about all ops that match."""

    output: str  # a tensor's name, or a pattern
    op: str = ""  # the kind of op, e.g. "CONV_2D"; "": any
    precision: str | None = None
    range: tuple[float, float] | None = None

    def matches(self, op: OpPlan) -> bool:
        """Whether the row is for an op."""
        if self.op and self.op != op.name:
            return False
        return self.output == op.output or fnmatch.fnmatchcase(op.output, self.output)


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read from JSON. Its names are checked by :meth:`check`."""

    name: str  # of the file, for errors and reasons
    rows: tuple[PlanRow, ...]
    preset: str | None = None
    network: str | None = None  # ``network_id`` of the network that it was written for

    def check_preset(self, preset: Preset) -> None:
        """Raises ``ValueError`` for a preset that the plan cannot be used with."""
        if self.preset not in (None, preset.name):
            raise ValueError(
                f"{self.name} is a plan of preset {self.preset}, and preset {preset.name} is asked "
                f"for: leave the preset out, or delete {'preset'!r} from the file"
            )
        if not preset.calibrated:
            raise ValueError(
                f"preset {preset.name} computes all ops in float32 and takes no plan: leave "
                f"{self.name} out, or use int8, int8_mixed, int8_strict or int16x8"
            )
        allowed = ("float32", preset.activations)
        if preset.output == "uint8":
            allowed = (preset.activations,)
        for row in self.rows:
            if row.precision not in (None, *allowed):
                raise ValueError(
                    f"{self.name}: {row.output!r} is to be {row.precision}; preset {preset.name} "
                    f"has {' and '.join(allowed)}"
                    + (" (int16: preset int16x8)" if row.precision == "int16" else "")
                )

    def check(self, plan: QuantPlan) -> None:
        """Raises ``ValueError`` if the file does not fit a plan that is made without it: another
        network, an output that no op has, or a precision that an op cannot have.
        """
        outputs = [op.output for op in plan.ops]
        if self.network not in (None, network_id(plan.ops)):
            known = {row.output for row in self.rows}
            fitting = sum(output in known for output in outputs)
            raise ValueError(
                f"{self.name} is the plan of another network: it has {fitting:,} of the "
                f"{len(outputs):,} ops of this one. Give the .json of a conversion of this one, or "
                "delete 'network' from the file if you mean the ops that fit"
            )
        for row in self.rows:
            matching = [op for op in plan.ops if row.matches(op)]
            if not matching and row.output.removesuffix(ADDED) not in outputs:
                raise ValueError(f"{self.name}: {_no_match(row, plan.ops)}")
            if row.range is not None and matching and all(op.name in _FIXED for op in matching):
                raise ValueError(
                    f"{self.name}: the range of {row.output!r} ({matching[0].name}) is fixed by "
                    "the kernel: leave it out"
                )
        self.applied(plan, {})

    def applied(self, plan: QuantPlan, ranges: Mapping) -> tuple[QuantPlan, dict]:
        """(plan, ranges) with what the rows state.

        Raises:
            ValueError: a precision that an op cannot have.
        """
        ops, ranges = [], dict(ranges)
        for op in plan.ops:
            rows = [row for row in self.rows if row.matches(op)]
            precision = _last(row.precision for row in rows) or op.precision
            bounds = _last(row.range for row in rows)
            if bounds is not None and op.name not in _FIXED:
                _check_range(f"{self.name}: range of {op.output!r}", bounds, ranges.get(op.output))
                ranges[op.output] = {"min": bounds[0], "max": bounds[1]}
            if precision != op.precision:
                if precision != "float32" and not can_quantize(op):
                    raise ValueError(
                        f"{self.name}: {op.output!r} ({op.name}) cannot be {precision}: {op.reason}"
                    )
                reason = self.name if precision == "float32" else ""
                op = dataclasses.replace(op, precision=precision, reason=reason)
            ops.append(op)
        return dataclasses.replace(plan, ops=tuple(ops)), ranges


def network_id(ops: Iterable[OpPlan]) -> str:
    """A name for the structure of a network: the same for all presets and all weights."""
    rows = [f"{op.name} {op.output}\n" for op in ops if op.name in WITH_WEIGHTS]
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


def plan_json(plan: QuantPlan, ranges: Mapping | None) -> dict:
    """A plan in JSON types, as :func:`parse_plan` takes it."""
    rows = []
    for op in plan.ops:
        row = {"output": op.output, "op": op.name, "precision": op.precision}
        bounds = (ranges or {}).get(op.output)
        if bounds is not None and op.name not in _FIXED:
            row["range"] = [float(bounds["min"]), float(bounds["max"])]
        if op.reason:
            row["reason"] = op.reason
        rows.append(row)
    return {"preset": plan.preset.name, "network": network_id(plan.ops), "ops": rows}


def read_plan(path: str | os.PathLike[str]) -> PlanFile:
    """The :class:`PlanFile` in the JSON of a conversion, or in a file with nothing else.

    Raises:
        ValueError: the file does not exist, is not JSON, or has no plan.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"plan {path!r} is not a file; give the .json of a conversion, edited")
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"plan {path!r} is not UTF-8 text; save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"plan {path!r} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise ValueError(f"plan {path!r} is not JSON of a plan: it is nested too deeply") from error
    return parse_plan(content, os.path.basename(path))


def parse_plan(content: object, name: str = "the plan") -> PlanFile:
    """The :class:`PlanFile` in the content of JSON.

    >>> parse_plan({"ops": [{"output": "stem*", "precision": "float32"}]}).rows[0].precision
    'float32'

    Raises:
        ValueError: a missing or unknown key, or a value that is impossible whatever the network.
    """
    if isinstance(content, dict) and KEY in content:
        content = content[KEY]
    if not isinstance(content, dict) or not isinstance(content.get("ops"), list):
        found = f"is a {type(content).__name__}"
        if isinstance(content, dict):
            found = f"has {', '.join(map(repr, list(content)[:9])) or 'no keys'}"
        raise ValueError(
            f'{name} {found}; a plan is {{"ops": [{{"output": ..., "precision": ...}}, ...]}}, or '
            f"the .json of a conversion, which has it as {KEY!r}"
        )
    for key in content:
        if key not in _KEYS:
            raise ValueError(f"{name}: {unknown_name('key', key, _KEYS)}")
    for key in ("preset", "network"):
        if not isinstance(content.get(key), (str, type(None))):
            raise ValueError(f"{name}: {key!r} must be a text, got {content[key]!r}")
    preset = content.get("preset")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"{name}: {unknown_name('preset', preset, PRESETS)}")
    if not content["ops"]:
        raise ValueError(f"{name} has no ops: give at least one, or leave the plan out")
    rows = tuple(_row(row, f"{name}, op {i}") for i, row in enumerate(content["ops"], start=1))
    return PlanFile(name, rows, preset, content.get("network"))


def _row(row, where):
    if not isinstance(row, dict):
        raise ValueError(f"{where}: give an object with 'output', got {row!r}")
    for key in row:
        if key not in _ROW_KEYS:
            raise ValueError(f"{where}: {unknown_name('key', key, _ROW_KEYS)}")
    output, op, precision = row.get("output"), row.get("op"), row.get("precision")
    if not isinstance(output, str) or not output:
        raise ValueError(f"{where}: 'output' must be a tensor's name or a pattern, got {output!r}")
    if not isinstance(op, (str, type(None))):
        raise ValueError(f"{where} ({output}): 'op' must be a kind of op, got {op!r}")
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(f"{where} ({output}): {unknown_name('precision', precision, _PRECISIONS)}")
    bounds = row.get("range")
    if bounds is not None:
        numbers = isinstance(bounds, list) and all(
            isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n)
            for n in bounds
        )
        if not numbers or len(bounds) != 2 or not -3e38 < bounds[0] <= bounds[1] < 3e38:
            raise ValueError(
                f"{where} ({output}): 'range' must be [smallest, largest] value, got {bounds!r}"
            )
        bounds = (float(bounds[0]), float(bounds[1]))
    if precision is None and bounds is None:
        raise ValueError(f"{where} ({output}): give 'precision' or 'range'")
    return PlanRow(output, op or "", precision, bounds)


def _check_range(where, bounds, calibrated):
    """``ValueError`` for a range so far from the calibrated one that the kernels abort."""
    if calibrated is None:
        return
    given, usual = (max(map(abs, ends)) for ends in (bounds, calibrated.values()))
    if usual > 0 and not usual / _FACTOR <= given <= usual * _FACTOR:
        low, high = calibrated["min"], calibrated["max"]
        raise ValueError(
            f"{where} is {list(bounds)}; on the calibration images it is [{low:.6g}, {high:.6g}]. "
            f"Kernels take at most {_FACTOR} times that, and at least 1/{_FACTOR} of it"
        )


def _no_match(row, ops):
    kinds = sorted({op.name for op in ops})
    if row.op and row.op not in kinds:
        return unknown_name("op", row.op, kinds)
    outputs = [op.output for op in ops if not row.op or op.name == row.op]
    bare = row.output.strip("*")
    near = did_you_mean(bare, outputs) or did_you_mean(bare, [o.split(";")[0] for o in outputs])
    if not near:
        near = did_you_mean(bare, sorted({o.split("/")[0] for o in outputs}))
    of = f" of a {row.op}" if row.op else ""
    return (
        f"no output{of} is named or matches {row.output!r}.{near} The .json of a conversion has "
        f"all {len(outputs):,} names"
    )


def _last(values):
    """The last value that is not None, else None."""
    return next((value for value in reversed(list(values)) if value is not None), None)
