"""Opens the study of a request: creates it, or checks that it is the same one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence

import numpy as np
from filelock import FileLock

from keras_effnet.atomic_write import remove_leftovers, write_files
from keras_effnet.space_lookup import find_space
from tpu_train.search.optuna_study import StoredStudy, without_password
from tpu_train.search.output_files import FILES
from tpu_train.search.request import SearchRequest
from tpu_train.search.settings import check_same_study

_FILE = "study.json"


def workdir_lock(request: SearchRequest) -> FileLock:
    """The lock of what only one worker may do at a time: create a study, add a trial, report."""
    os.makedirs(request.workdir, exist_ok=True)
    return FileLock(os.path.join(request.workdir, ".lock"))


def open_storage(request: SearchRequest) -> StoredStudy:
    """The study in its storage, before the data are known.

    Raises ``ValueError`` for a storage that cannot be opened, and for a study with other settings.
    """
    with workdir_lock(request):
        _check_workdir(request)
        remove_leftovers(request.workdir, (*FILES, _FILE))
        study = StoredStudy(
            request.storage_location, request.study, find_space(request.settings.space)
        )
        recorded = study.attributes().get("identity")
        if recorded is not None:
            current = request.settings.identity((), np.zeros(0))
            check_same_study({**recorded, "data": None}, {**current, "data": None}, request.workdir)
        elif study.has_trials():
            raise ValueError(
                f"the storage has a study {request.study!r} of another program: give another "
                "--study"
            )
    return study


def open_study(
    request: SearchRequest, study: StoredStudy, classes: Sequence[str], labels: np.ndarray
) -> None:
    """Records what the study is, if it is new.

    `classes` and `labels` are those of all training images. Raises ``ValueError`` if the storage
    has a study of this name with other settings, other data or another workdir.
    """
    identity = request.settings.identity(classes, labels)
    path = os.path.join(request.workdir, _FILE)
    with workdir_lock(request):
        recorded, local = study.attributes(), _read(path)
        if local is not None:
            check_same_study(local["identity"], identity, request.workdir)
        if "identity" in recorded:
            check_same_study(recorded["identity"], identity, f"the storage of {request.workdir}")
            if local is None and not request.storage:  # the journal is in the workdir
                local = {"id": recorded["id"], "identity": identity, **_place(request)}
                write_files({path: json.dumps(local, indent=1).encode()})
            if local is None or local["id"] != recorded["id"]:
                raise ValueError(
                    f"the study {request.study!r} in the storage belongs to another workdir than "
                    f"{request.workdir}: all workers of a study share the workdir, which has the "
                    "checkpoints. Give its workdir, or another --study"
                )
            return
        if local is None:
            local = {"id": str(uuid.uuid4()), "identity": identity, **_place(request)}
            write_files({path: json.dumps(local, indent=1).encode()})
        elif any(local.get(name, value) != value for name, value in _place(request).items()):
            storage = local["storage"] or "the file in the workdir"
            raise ValueError(
                f"{request.workdir} has the study {local['study']!r} in another storage, "
                f"{storage}: give the --storage and --study that it was started with, or another "
                "workdir"
            )
        study.set_attribute("id", local["id"])
        study.set_attribute("identity", identity)


def _place(request):
    """Where a study is stored, as study.json records it."""
    return {"storage": without_password(request.storage), "study": request.study}


def _check_workdir(request):
    """Raises ``ValueError`` for a workdir with files of something else than a study."""
    journal = not request.storage and os.path.exists(request.storage_location)
    if journal or os.path.exists(os.path.join(request.workdir, _FILE)):
        return
    others = [n for n in (*FILES, "recipe.json") if os.path.exists(f"{request.workdir}/{n}")]
    if others:
        raise ValueError(
            f"{request.workdir} has files of something else ({', '.join(others)}): choose another "
            "workdir"
        )


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not complete JSON ({error}): choose another workdir") from None
    if (
        not isinstance(content, dict)
        or "id" not in content
        or not isinstance(content.get("identity"), dict)
    ):
        raise ValueError(f"{path} does not describe a study: choose another workdir")
    return content
