"""Where a report comes from: files, date, command, versions."""

from __future__ import annotations

import datetime
import os

from keras_effnet import html_elements as html
from keras_effnet.provenance import file_sha256, package_versions


def origin_of(file: str | os.PathLike, *, model: str = "", command: str = "") -> dict:
    """The origin of a .tflite or a report, in JSON types.

    Args:
        file: the .tflite.
        model: what it was converted from, or is compared with.
        command: the command line.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "file": os.path.basename(file),
        "model": os.path.basename(os.path.normpath(model)) if model else "",
        "model_sha256": file_sha256(model),
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "versions": package_versions(),
    }


def file_name(origin) -> str:
    """The name of the .tflite; "" if it is unknown. `origin` is untrusted, as below."""
    return str(origin.get("file") or "") if isinstance(origin, dict) else ""


def section(origin) -> str:
    """The origin as HTML; "" without one.

    Args:
        origin: as :func:`origin_of` returns it; every field is optional.
    """
    if not isinstance(origin, dict):
        return ""
    versions = origin.get("versions")
    if isinstance(versions, dict):
        versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    cells = (
        ("File", origin.get("file")),
        ("Float model", origin.get("model")),
        ("Date", origin.get("date")),
        ("Command", origin.get("command")),
        ("Versions", versions),
    )
    rows = [[name, f"<code>{html.text(value)}</code>"] for name, value in cells if value]
    if not rows:
        return ""
    return html.section("Origin", "Where this report comes from.", html.table(["", ""], rows))
