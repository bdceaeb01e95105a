"""A variant as a JSON file: networks that are no row of the table, such as those of a search.

Stages are the official code's block strings (:mod:`keras_effnet.block_strings`). No Keras.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, fields

from keras_effnet.atomic_write import write_files
from keras_effnet.block_strings import format_stages, parse_stages
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import FAMILIES, Evaluation, Normalization, Variant

FORMAT = 1
# how a field is stored; the others are stored as they are
_SPECIAL = ("family", "stages", "stem_filters", "normalization", "evaluation")
# The largest published network, L2, has width 4.3, depth 5.3, 800 px and 88 blocks. Far beyond, one
# image's activations exceed any accelerator's memory, so such a number is a mistake.
MAX_FACTOR = 20.0
MAX_IMAGE_SIZE = 4096
_MAX_FILTERS = 100_000
_MAX_BLOCKS = 10_000
_SMALLEST = 1e-12  # number above 0
_NUMBERS = {  # (type, least, most)
    "width": (float, _SMALLEST, MAX_FACTOR),
    "depth": (float, _SMALLEST, MAX_FACTOR),
    "image_size": (int, 1, MAX_IMAGE_SIZE),
    "dropout_rate": (float, 0, 0.999),
    "head_filters": (int, 0, _MAX_FILTERS),
    "drop_path_rate": (float, 0, 0.999),
    "bn_epsilon": (float, _SMALLEST, 1),
}


def write_variant(path: str | os.PathLike[str], variant: Variant, **extra: object) -> None:
    """Writes a variant as JSON, atomically.

    `extra` are further JSON values, for example the accuracy at which a search found it; reading
    ignores them.
    """
    content = {"keras_effnet_variant": FORMAT, **to_json(variant), "extra": extra}
    write_files({os.fspath(path): (json.dumps(content, indent=2) + "\n").encode()})


def to_json(variant: Variant) -> dict:
    """The fields of a variant as JSON values.

    >>> from keras_effnet import VARIANTS
    >>> to_json(VARIANTS["efficientnetv2-b0"])["blocks"][0]
    'r1_k3_s1_e1_i32_o16_c1'
    """
    plain = {f.name: getattr(variant, f.name) for f in fields(Variant) if f.name not in _SPECIAL}
    return {
        **plain,
        "family": variant.family.name,
        "blocks": list(format_stages(variant.stages, variant.stem_filters)),
        "normalization": asdict(variant.normalization),
        "evaluation": asdict(variant.evaluation),
    }


def read_variant(path: str | os.PathLike[str]) -> Variant:
    """The variant of a file that :func:`write_variant` wrote.

    Raises ``ValueError`` for a file that is missing, truncated, of a newer version, or not a
    variant.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as f:
            content = json.load(f)
    except OSError as error:
        raise ValueError(f"{name}: cannot read it ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(
            f"{name} is not complete JSON ({error}): write it again, with the same command as "
            "before"
        ) from None
    if not isinstance(content, dict) or "keras_effnet_variant" not in content:
        raise ValueError(
            f"{name} does not describe a network: it lacks 'keras_effnet_variant'. Give a file of "
            "`effnet scale --out` or the best.json of `effnet-train search`"
        )
    version = content["keras_effnet_variant"]
    if version != FORMAT:
        raise ValueError(
            f"{name} has version {version!r} of the format; this version of keras_effnet reads "
            f"{FORMAT}. Update keras_effnet, or write the file again"
        )
    try:
        return from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{name}: {reason}") from None


def from_json(content: dict) -> Variant:
    """The variant of :func:`to_json`; the reverse is exact.

    Raises ``ValueError``, ``TypeError`` or ``KeyError`` for values that are not a variant's.
    """
    if content["family"] not in FAMILIES:
        raise ValueError(unknown_name("family", content["family"], FAMILIES))
    stages, stem_filters = parse_stages(content["blocks"])
    values = {
        name: _number(name, content[name], kind, least, most)
        for name, (kind, least, most) in _NUMBERS.items()
    }
    top1 = content["top1"]
    _check_size(stages, stem_filters, values["depth"])
    return Variant(
        name=_name(content["name"]),
        family=FAMILIES[content["family"]],
        stages=stages,
        stem_filters=stem_filters,
        top1=None if top1 is None else _number("top1", top1, float, 0, 100),
        normalization=_normalization(content["normalization"]),
        evaluation=_evaluation(content["evaluation"]),
        padding=_one_of("padding", content["padding"], ("same", "symmetric")),
        **values,
    )


def _number(name, value, kind, least, most):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, not a number")
    if not least <= value <= most:  # also NaN
        lowest = "above 0" if least == _SMALLEST else f"of at least {least}"
        raise ValueError(f"{name} is {value!r}: give a number {lowest} and at most {most:,g}")
    if kind is int and value != int(value):
        raise ValueError(f"{name} is {value!r}: give a whole number")
    return kind(value)


def _name(value):
    if not isinstance(value, str) or not value or not value.isprintable() or "/" in value:
        raise ValueError(f"name is {value!r}: give a text of printable characters without '/'")
    return value


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: give {' or '.join(map(repr, choices))}")
    return value


def _check_size(stages, stem_filters, depth):
    filters = max(stem_filters, *(stage.filters for stage in stages))
    if filters > _MAX_FILTERS:
        raise ValueError(f"a stage has {filters:,} filters: give at most {_MAX_FILTERS:,}")
    blocks = math.ceil(depth * sum(stage.repeats for stage in stages))
    if blocks > _MAX_BLOCKS:
        raise ValueError(f"the network has {blocks:,} blocks: give at most {_MAX_BLOCKS:,}")


def _normalization(content):
    values = {}
    for name, least in (("mean", -1e9), ("std", _SMALLEST)):
        if not isinstance(content[name], (list, tuple)) or len(content[name]) != 3:
            raise ValueError(f"normalization {name} is {content[name]!r}: give three numbers")
        values[name] = tuple(
            _number(f"normalization {name}", value, float, least, 1e9) for value in content[name]
        )
    return Normalization(**values)


def _evaluation(content):
    padding = content["crop_padding"]
    return Evaluation(
        None if padding is None else _number("crop_padding", padding, int, 0, MAX_IMAGE_SIZE),
        _one_of("interpolation", content["interpolation"], ("bilinear", "bicubic")),
    )
