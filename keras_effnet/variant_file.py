"""A variant as a JSON file: networks that are no row of the table, such as those of a search.

Stages are the official code's block strings (:mod:`keras_effnet.block_strings`). No Keras.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields

from keras_effnet.atomic_write import write_files
from keras_effnet.block_strings import format_stages, parse_stages
from keras_effnet.suggestions import unknown_name
from keras_effnet.variants import FAMILIES, Evaluation, Normalization, Variant

FORMAT = 1
# how a field is stored; the others are stored as they are
_SPECIAL = ("family", "stages", "stem_filters", "normalization", "evaluation")
_NUMBERS = {
    "width": float,
    "depth": float,
    "image_size": int,
    "dropout_rate": float,
    "head_filters": int,
    "drop_path_rate": float,
    "bn_epsilon": float,
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
            f"{name} is not complete JSON ({error}): write it again with `effnet-train search`"
        ) from None
    if not isinstance(content, dict) or "keras_effnet_variant" not in content:
        raise ValueError(f"{name} does not describe a network: it lacks 'keras_effnet_variant'")
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
    values = {name: content[name] for name in ("name", "top1", "padding")}
    for name, kind in _NUMBERS.items():
        if isinstance(content[name], bool) or not isinstance(content[name], (int, float)):
            raise ValueError(f"{name} is {content[name]!r}, not a number")
        values[name] = kind(content[name])
    normalization = content["normalization"]
    return Variant(
        family=FAMILIES[content["family"]],
        stages=stages,
        stem_filters=stem_filters,
        normalization=Normalization(tuple(normalization["mean"]), tuple(normalization["std"])),
        evaluation=Evaluation(**content["evaluation"]),
        **values,
    )
