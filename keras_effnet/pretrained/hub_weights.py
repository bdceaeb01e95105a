"""Weights of a hub repository: checks it, downloads, converts once, and caches the result.

A repository holds a state dict of timm, torchvision or lukemelas, or a Keras file of this package.
The converted file lies in the cache of :mod:`.download`, named after the commit, and states where
it comes from. The commit of each revision is recorded, so that everything works offline afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping

from filelock import FileLock

from keras_effnet.atomic_write import replacing, write_files
from keras_effnet.labels import label_map
from keras_effnet.network_plan import plan
from keras_effnet.pretrained import download, hub, state_dicts
from keras_effnet.pretrained.files import write_weights
from keras_effnet.pretrained.input_settings import GivenSettings, resolve_settings
from keras_effnet.pretrained.input_spec import InputSpec, read_input_spec
from keras_effnet.pretrained.pytorch_projects import PYTORCH_PROJECTS, find_network
from keras_effnet.pretrained.registry import default_preprocessing
from keras_effnet.pretrained.timm_config import read_config
from keras_effnet.variants import VARIANTS

_LOG = logging.getLogger("keras_effnet")

KERAS_SUFFIXES = (".keras", ".h5")
STATE_DICT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_USUAL_NAMES = ("model", "pytorch_model")  # of the file to take where there are several


def fetch_weights(address: str, variant: str, classes: int | None = None) -> pathlib.Path:
    """The local file with the weights of a repository, for the variant of that name.

    The file is downloaded and converted at the first use. `classes` is the number of classes of
    the model that it is for; None accepts any. Raises ``DownloadError`` for a repository that
    cannot be read, and ``ValueError`` for one without a file of weights, with another network or
    with another number of classes, before the weights are downloaded.

    >>> fetch_weights("hf://timm", "efficientnet-b0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: 'hf://timm' is not an address of the hub: give hf://OWNER/NAME ...
    """
    wanted = hub.parse(address)
    cache = _Cache(wanted)
    commit = wanted.revision if wanted.is_pinned else None
    path = commit and cache.converted(commit)
    if not path:
        commit, files = _ask(wanted, cache)
        path = cache.converted(commit)
    if not path:
        path = _convert(wanted, commit, files, cache, variant, classes)
    stated = read_input_spec(path)
    _check_network(address, stated.network, variant)
    _check_classes(address, stated.classes, classes)
    _LOG.info("%s is commit %s: %s", address, commit, path)
    return path


def fetch_originals(address: str) -> pathlib.Path:
    """The local path of a repository's own file of weights, with its config.json beside it.

    Raises as :func:`fetch_weights` does.
    """
    wanted = hub.parse(address)
    reason = hub.offline_reason()
    if reason:
        raise download.DownloadError(f"{wanted} is needed, but {reason} is set: unset it")
    commit, files = hub.list_files(wanted)
    name = _choose(wanted, files)
    if "config.json" in files:
        hub.download_file(wanted, commit, "config.json")
    _LOG.info("%s is commit %s", address, commit)
    return hub.download_file(wanted, commit, name)


class _Cache:
    """The converted files of a repository, by commit, and the commits of its revisions."""

    def __init__(self, wanted: hub.Address):
        parts = wanted.repository.split("/")
        self.folder = download.cache_folder().joinpath("keras_effnet", "hub", *parts)
        self._end = f"-{urllib.parse.quote(wanted.file, safe='')}" if wanted.file else ""
        name = urllib.parse.quote(wanted.revision, safe="")
        self._revision = self.folder / "revisions" / name

    def path(self, commit: str, suffix: str) -> pathlib.Path:
        return self.folder / f"{commit}{self._end}{suffix}"

    def converted(self, commit: str) -> pathlib.Path | None:
        paths = (self.path(commit, suffix) for suffix in KERAS_SUFFIXES)
        return next((path for path in paths if download.intact(path)), None)

    def recorded_commit(self) -> str | None:
        with contextlib.suppress(OSError):
            return self._revision.read_text(encoding="utf-8").strip()
        return None

    def record_commit(self, commit: str) -> None:
        self._revision.parent.mkdir(parents=True, exist_ok=True)
        write_files({str(self._revision): commit.encode()})


def _ask(wanted, cache):
    """(commit, files) of the hub; of the record if it is not asked or does not answer."""
    recorded = cache.recorded_commit()
    usable = recorded is not None and cache.converted(recorded)
    reason = hub.offline_reason()
    if reason and usable:
        return recorded, ()
    if reason:
        raise download.DownloadError(
            f"{wanted} is needed, but it is not in the cache ({cache.folder}) and {reason} is set: "
            "unset it"
        )
    try:
        commit, files = hub.list_files(wanted)
    except hub.UnreachableError as error:
        if not usable:
            raise
        _LOG.warning("%s; using commit %s, which is in the cache", error, recorded)
        return recorded, ()
    return commit, files


def _convert(wanted, commit, files, cache, variant, classes):
    name = _choose(wanted, files)
    config = {}
    if "config.json" in files:
        config = read_config(hub.download_file(wanted, commit, "config.json"))
    _check_config(wanted, config, name, variant, classes)
    source = f"{wanted} ({name}, commit {commit})"
    with _locked(cache, commit):
        path = cache.converted(commit)  # by another process meanwhile
        if path:
            return path
        original = hub.download_file(wanted, commit, name)
        suffix = pathlib.PurePath(name).suffix
        if suffix in KERAS_SUFFIXES:
            path = cache.path(commit, suffix)
            with replacing(path) as temporary:
                shutil.copyfile(original, temporary)
        else:
            path = cache.path(commit, ".h5")
            weights, spec = _read_state_dict(original, config, variant, source)
            _check_config_classes(wanted, config, spec.classes)
            write_weights(path, weights, spec)
        download.record(path)
        cache.record_commit(commit)
    return path


@contextlib.contextmanager
def _locked(cache, commit) -> Iterator[None]:
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{cache.path(commit, '')}.lock", timeout=download.LOCK_TIMEOUT)
        lock.acquire()
    except PermissionError as error:
        raise download.DownloadError(
            f"{cache.folder} cannot be written to ({error}). Set KERAS_HOME to a writable folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _choose(wanted, files):
    """The file of weights in a repository."""
    known = (*KERAS_SUFFIXES, *STATE_DICT_SUFFIXES)
    if wanted.file is not None:
        if wanted.file not in files or not wanted.file.endswith(known):
            raise ValueError(
                f"{wanted}: the repository has no file {wanted.file!r} of weights. It has: "
                f"{_listed(files)}"
            )
        return wanted.file
    for suffix in (".keras", ".safetensors", *KERAS_SUFFIXES[1:], *STATE_DICT_SUFFIXES[1:]):
        names = [name for name in files if name.endswith(suffix) and "/" not in name]
        usual = [name for name in names if pathlib.PurePath(name).stem in _USUAL_NAMES]
        names = usual or names
        if len(names) == 1:
            return names[0]
        if names:
            raise ValueError(
                f"{wanted} has {len(names)} files of weights ({_listed(names)}): name one, e.g. "
                f"hf://{wanted.repository}/{names[0]}"
            )
    raise ValueError(
        f"{wanted} has no file of weights ({', '.join(known)}). It has: {_listed(files)}"
    )


def _check_config(wanted, config, name, variant, classes):
    """``ValueError`` for a config.json of another network or number of classes."""
    architecture = config.get("architecture")
    if architecture is not None and not name.endswith(KERAS_SUFFIXES):
        rows = [row.variants for row in PYTORCH_PROJECTS.values() if architecture in row.variants]
        if not rows:
            raise ValueError(
                f"{wanted} is of the architecture {architecture!r}, which is not an EfficientNet "
                "of timm, torchvision or lukemelas that can be read"
            )
        _check_network(wanted, rows[0][architecture].name, variant)
    if config.get("library") == "transformers":
        raise ValueError(
            f"{wanted} is a repository of the library transformers, whose files are not read: give "
            "one of timm, e.g. hf://timm/tf_efficientnet_b0.ns_jft_in1k"
        )
    _check_classes(wanted, config.get("classes"), classes)


def _check_network(wanted, network, variant):
    if network is not None and variant in VARIANTS and network != variant:
        raise ValueError(f"{wanted} is of {network}, not of {variant}: give {network!r}")


def _check_classes(wanted, stored, classes):
    mapped = stored is not None and classes == 1000 and label_map(stored) is not None
    if None not in (stored, classes) and stored != classes and not mapped:
        raise ValueError(
            f"{wanted} has {stored} classes, but the model has {classes}: build it with "
            f"classes={stored}. For another number of classes give it to with_new_head, or build "
            "with include_top=False"
        )


def _check_config_classes(wanted, config, stored):
    stated = config.get("classes")
    if stated and stored is not None and stated != stored:
        raise ValueError(
            f"{wanted} has {stored} classes, but its config.json states {stated}: the repository "
            "is inconsistent"
        )


def _read_state_dict(path, config, variant, source) -> tuple[Mapping, InputSpec]:
    """(weights by our layers' names, what is known about them) of a PyTorch file."""
    state = state_dicts.read_state(path)
    projects = [
        row
        for row in PYTORCH_PROJECTS.values()
        if f"{row.names.ends['stem_conv']}.weight" in state
        and any(v.name == variant for v in row.variants.values())
    ]
    if not projects:
        raise ValueError(
            f"{source} is not a state dict of {variant} of timm, torchvision or lukemelas: it has "
            f"{_listed(tuple(state))}"
        )
    project = projects[0]
    try:
        name, found = find_network(project, config.get("architecture") or variant)
    except ValueError as error:
        raise ValueError(
            f"{source} has no config.json that states its architecture. Convert it with `effnet "
            f"port` instead: {error}"
        ) from error
    classifier = state.get(f"{project.names.ends['predictions']}.bias")
    weights = state_dicts.by_our_names(
        source, state, plan(found), project.names, include_top=classifier is not None
    )
    usual = project.preprocessing.get(name) or default_preprocessing(VARIANTS[found.name])
    images = resolve_settings(
        GivenSettings(), InputSpec(), config, InputSpec(usual, found.normalization)
    )
    if images.assumed:
        _LOG.warning(
            "%s does not state everything about its images; assumed: %s",
            source,
            "; ".join(map(str, images.assumed)),
        )
    return weights, InputSpec(
        images.preprocessing,
        images.normalization,
        bn_epsilon=found.bn_epsilon,
        padding=found.padding,
        classes=None if classifier is None else len(classifier),
        network=found.name,
        source=source,
    )


def _listed(names):
    names = list(names)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
