"""``effnet models``, ``plan`` and ``weights`` print the tables; ``effnet labels`` writes one."""

import fnmatch
import os

from keras_effnet.atomic_write import check_writable, write_files
from keras_effnet.label_file import format_labels
from keras_effnet.labels import LABEL_FORMATS, imagenet_classes
from keras_effnet.model_cost import cost
from keras_effnet.network_plan import plan
from keras_effnet.pretrained.registry import PRETRAINED_WEIGHTS
from keras_effnet.variant_lookup import list_models
from keras_effnet.variants import BASE_NETWORKS, NETWORKS, VARIANTS


def add_pattern(parser):
    group = parser.add_group("which models", f"{parser.prog} '*v2*'")
    group.add_argument(
        "pattern", nargs="?", default="*", help="shell pattern of model names, e.g. '*v2*'"
    )


def add_name(parser):
    group = parser.add_group("which model", f"{parser.prog} efficientnet-b3")
    group.add_argument("model", help="a name of `effnet models`")


def blocks(options):
    print(plan(options.model))


def models(options):
    names = list_models(options.pattern)
    others = [name for name in BASE_NETWORKS if fnmatch.fnmatchcase(name, options.pattern)]
    if not names and not others:
        raise ValueError(f"No model matches {options.pattern!r}. Known: {', '.join(NETWORKS)}")
    if names:
        print(_HEADER)
        for name in names:
            print(_row(name))
        print(
            "top-1: published, ImageNet-1k only (B8, L2 and XL were released only with extra data)."
        )
    if others:
        print(
            ("\n" if names else "")
            + "Not EfficientNets, and without pretrained weights: to scale and to train.\n"
            + _HEADER
        )
        for name in others:
            print(_row(name))
        print("top-1: reported in the EfficientNet paper; no weights of it are available here.")


_HEADER = (
    f"{'model':<20}{'image size':>11}{'blocks':>8}{'parameters':>13}{'GMACs':>9}{'top-1 %':>9}"
)


def _row(name):
    v, p, c = NETWORKS[name], plan(name), cost(name)
    return (
        f"{name:<20}{p.image_size:>11}{len(p.blocks):>8}{c.parameters:>13,}"
        f"{c.macs / 1e9:>9.2f}{_score(v.top1):>9}"
    )


def weights(options):
    rows = [
        row for (v, _), row in PRETRAINED_WEIGHTS.items() if fnmatch.fnmatchcase(v, options.pattern)
    ]
    if not rows:
        raise ValueError(
            f"No pretrained weights for a model that matches {options.pattern!r}. Known: "
            + ", ".join(dict.fromkeys(v for v, _ in PRETRAINED_WEIGHTS))
        )
    print(
        f"{'model':<20}{'weights':<19}{'classes':>8}{'top-1 %':>9}{'image size':>11}{'crop':>7}"
        f"  {'interpolation':<15}{'mean':<22}{'std'}"
    )
    for row in sorted(rows, key=lambda row: list(VARIANTS).index(row.variant)):
        p, n = row.preprocessing, row.normalization
        crop = "whole" if p.crop is None else f"{p.crop:.3f}"
        print(
            f"{row.variant:<20}{row.name:<19}{row.classes:>8}{_score(row.top1):>9}"
            f"{p.image_size:>11}{crop:>7}  {p.interpolation:<15}{_rgb(n.mean):<22}{_rgb(n.std)}"
        )
    print(
        "top-1: published, on ImageNet-1k. Images are RGB in [0, 255]: each model normalizes them "
        "with its mean and std."
    )


def add_out(parser):
    group = parser.add_group("label file", f"{parser.prog} --out=labels.txt --format=short")
    group.add_argument("--out", required=True, help="the label file to write: labels.txt")
    group.add_argument(
        "--format",
        choices=LABEL_FORMATS,
        default="names",
        help="all names of a class, the first one, or the WordNet id",
    )


def labels(options):
    path = check_writable(options.out)
    contents = {name: format_labels(imagenet_classes(name)) for name in LABEL_FORMATS}
    if os.path.lexists(path) and not _holds_only(path, contents.values()):
        raise ValueError(
            f"--out={options.out} exists and is not a label file of effnet labels: it is not "
            "overwritten; give another name or delete it"
        )
    write_files({path: contents[options.format]})
    print(f"{options.out}: the names of ImageNet's {len(imagenet_classes()):,} classes")


def _holds_only(path, contents):
    """Whether nothing is lost: a file with one of the contents, or an empty one."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(max(map(len, contents)) + 1) in (*contents, b"")


def _score(top1):
    return "-" if top1 is None else f"{top1:.1f}"


def _rgb(constants):
    if len(set(constants)) == 1:
        return f"{constants[0]:g}"
    return " ".join(f"{value:.2f}" for value in constants)
