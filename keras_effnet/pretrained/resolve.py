"""From the argument ``weights=`` to a local file and its input spec; downloads and converts."""

from __future__ import annotations

import logging
import os
import pathlib
import tempfile
import urllib.parse
from dataclasses import dataclass

from keras_effnet.model_cost import cost
from keras_effnet.network_plan import Plan
from keras_effnet.pretrained import download, tf_checkpoint
from keras_effnet.pretrained.files import write_weights
from keras_effnet.pretrained.input_spec import InputSpec, read_input_spec
from keras_effnet.pretrained.registry import (
    PRETRAINED_WEIGHTS,
    PretrainedWeights,
    best_weights,
    list_weights,
)
from keras_effnet.suggestions import unknown_name

_LOG = logging.getLogger("keras_effnet")
_UNKNOWN = InputSpec()


@dataclass(frozen=True)
class ResolvedWeights:
    """What ``weights=`` refers to: a released row, a local file, or (both None) random weights."""

    input_spec: InputSpec = _UNKNOWN
    released: PretrainedWeights | None = None
    path: pathlib.Path | None = None

    def local_file(self, plan: Plan, *, include_top: bool = True) -> pathlib.Path | None:
        """The file to load, downloaded if necessary; None for random weights."""
        if self.released is None:
            return self.path
        return download_weights(self.released, plan, include_top=include_top)


def resolve_weights(variant: str, weights: str | os.PathLike[str] | None) -> ResolvedWeights:
    """What `weights` refers to for the variant of that name. Downloads nothing.

    Raises ``ValueError`` for an unknown name that is not the path of a file either.

    >>> resolve_weights("efficientnet-b8", "auto").released.name
    'advprop'
    """
    if weights is None:
        return ResolvedWeights()
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            f"weights {weights!r} is neither None, nor a name of pretrained weights, nor a path"
        )
    weights = os.fspath(weights)
    names = list_weights(variant)
    row = PRETRAINED_WEIGHTS.get((variant, weights))
    if weights == "auto" and names:
        row = best_weights(variant)
        _LOG.info("%s: weights='auto' selects %r", variant, row.name)
    if row is not None:
        return ResolvedWeights(InputSpec(row.preprocessing, row.normalization), released=row)
    if os.path.isfile(weights):
        return ResolvedWeights(read_input_spec(weights), path=pathlib.Path(weights))
    error = (
        unknown_name("weights", weights, ["auto", *names])
        if names
        else f"Unknown weights {weights!r}."
    )
    raise ValueError(
        f"{error} ({variant} has {len(names)} released weights, and no file has that name.) "
        "Give weights=None for random weights, or a path: .keras, .weights.h5 or .h5"
    )


def download_weights(
    row: PretrainedWeights, plan: Plan, *, include_top: bool = True
) -> pathlib.Path:
    """The local path of released weights; downloads them at the first use.

    `plan` is the variant's. Archives of TensorFlow checkpoints are converted to ``.h5`` at the
    first use, which requires TensorFlow. Raises ``DownloadError`` if the file is unavailable or
    not the published one.
    """
    without_top = row.notop_url is not None and not include_top
    url, md5 = (row.notop_url, row.notop_md5) if without_top else (row.url, row.md5)
    folder = download.cache_folder()
    if url.endswith(".h5"):  # where Keras itself would look for it
        return download.fetch(url, folder / url.rsplit("/", 1)[-1], md5=md5)
    archive = folder / "keras_effnet" / urllib.parse.urlsplit(url).path.lstrip("/")
    converted = archive.with_name(archive.name.split(".")[0] + ".h5")
    if not download.intact(converted):
        archive = download.fetch(url, archive, md5=md5)
        _convert(archive, converted, row, plan)
    return converted


def _convert(archive, converted, row, plan):
    # weights, their averages, and the optimizer's slots, in float32; and the graph's definition
    limit = 6 * 4 * cost(plan, classes=row.classes).parameters + (256 << 20)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=converted.parent) as folder:
        download.unpack(archive, folder, limit=limit)
        indices = sorted(pathlib.Path(folder).rglob("*.index"))
        if len(indices) != 1:
            raise ValueError(
                f"{archive} holds {len(indices)} checkpoints, expected one: delete it and try again"
            )
        weights = tf_checkpoint.read(str(indices[0].with_suffix("")), plan)
        write_weights(converted, weights, InputSpec(row.preprocessing, row.normalization))
    download.record(converted)
