"""``effnet-train pseudo-label --model=teacher.keras --data=UNLABELED --out=shards``: labels images.

A teacher labels images; those it is confident of become shards with its scores, for --unlabeled of
effnet-train. The exit status is 0 on success, 1 for a failing disk, 2 for bad input, and 75 after
Ctrl-C: the same command resumes. With TF_CONFIG, all hosts share the images; --out must be a folder
that all of them see.
"""

from __future__ import annotations

import os
import sys

from absl import flags

from keras_effnet.datasets.dataset import check_path
from tpu_train.checkpointing.preemption import parse_duration
from tpu_train.cli import command, outputs
from tpu_train.device_names import LOCAL_DEVICES, check_device
from tpu_train.noisy_student.hosts import hosts_of_environment
from tpu_train.training.model_source import check_teacher

INTRODUCTION = """Labels images with a trained network, the teacher. Images that it is confident of
become shards with its scores, for --unlabeled of effnet-train.

  effnet-train pseudo-label --model=teacher.keras --data=photos --out=labeled

With TF_CONFIG, all hosts share the images; --out must be a folder that all of
them see."""

GROUPS = {
    "teacher and images": (
        "effnet-train pseudo-label --model=teacher.keras --data=photos --out=labeled",
        ("model", "labels", "data", "max_corrupt", "out"),
    ),
    "selection of images": (
        "effnet-train pseudo-label --threshold=0.5 --images_per_class=1000",
        ("threshold", "balance", "images_per_class", "seed"),
    ),
    "machine": (
        "effnet-train pseudo-label --device=cpu:2",
        ("device", "wait_for_workers"),
    ),
}


def main(argv=None):
    """Labels images; returns the exit status."""
    return command.run("effnet-train pseudo-label", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    _check(values)
    return command.resumable(_label, values)


def define_selection(values):
    """Adds the flags of the selection to absl's `values`."""
    to_values = {"flag_values": values}
    flags.DEFINE_float(
        "threshold",
        0.3,
        "minimum confidence of an image to be used",
        lower_bound=0,
        upper_bound=1,
        **to_values,
    )
    flags.DEFINE_boolean(
        "balance",
        True,
        "use the same number of images of every class: the most confident of a frequent class, "
        "and repeats of those of a rare one",
        **to_values,
    )
    flags.DEFINE_integer(
        "images_per_class",
        0,
        "that number with --balance; 0 for the mean over the classes (paper: 130,000 for ImageNet)",
        lower_bound=0,
        **to_values,
    )


def rule_of(values, seed):
    """The SelectionRule of the flags."""
    from tpu_train.noisy_student.selection import SelectionRule  # here: --help stays fast

    return SelectionRule(values.threshold, values.balance, values.images_per_class, seed)


def define():
    """The flags of the command."""
    values = flags.FlagValues()
    to_values = {"flag_values": values}
    flags.DEFINE_string("model", None, "the teacher: the model.keras of a run", **to_values)
    flags.DEFINE_string(
        "data",
        None,
        "images to label: a folder (its subfolders are no labels), TFRecord shards, a .csv, .json "
        "or .npz file, or tfds:NAME",
        **to_values,
    )
    flags.DEFINE_string("out", None, "output folder: new, or incomplete to resume", **to_values)
    flags.DEFINE_string(
        "labels",
        None,
        "class names of the teacher, one a line (default: labels.txt beside it)",
        **to_values,
    )
    define_selection(values)
    flags.DEFINE_integer(
        "seed", 0, "seed of the images to repeat once more", lower_bound=0, **to_values
    )
    flags.DEFINE_integer(
        "max_corrupt",
        10,
        "maximum number of undecodable images to skip",
        lower_bound=0,
        **to_values,
    )
    flags.DEFINE_string(
        "device", "auto", "auto, tpu[:name], gpu[:count] or cpu[:count]", **to_values
    )
    flags.DEFINE_string(
        "wait_for_workers",
        "24h",
        "how long to wait for the other hosts of TF_CONFIG to finish their part, e.g. 24h",
        **to_values,
    )
    return values


def _check(values):
    """Raises ``ValueError`` for flags that cannot work, before TensorFlow is imported."""
    for flag in ("model", "data", "out"):
        if not getattr(values, flag):
            raise ValueError(f"--{flag} is missing; see effnet-train pseudo-label --help")
    check_device(values.device, LOCAL_DEVICES)
    check_teacher("model", values.model)
    if values.labels and not os.path.isfile(values.labels):
        raise ValueError(f"--labels={values.labels}: there is no such file")
    rule_of(values, values.seed)
    check_path(values.data)
    outputs.check_folder("out", values.out, values.data)
    parse_duration(values.wait_for_workers)
    hosts_of_environment(0)


def _label(values):
    from tpu_train.input_pipeline.tfrecord_shard import PrepareError  # here: --help stays fast
    from tpu_train.noisy_student.pseudo_labels import LabelingOptions, write_pseudo_labels
    from tpu_train.noisy_student.unlabeled_images import open_unlabeled
    from tpu_train.training.distribution import make_local_strategy
    from tpu_train.training.teacher import open_teacher

    strategy = make_local_strategy(values.device)
    teacher = open_teacher(values.model, strategy, values.labels)
    images = open_unlabeled(values.data)
    for note in images.notes:
        print(note, file=sys.stderr)
    options = LabelingOptions(
        rule=rule_of(values, values.seed),
        max_corrupt=values.max_corrupt,
        hosts=hosts_of_environment(parse_duration(values.wait_for_workers)),
    )
    try:
        written = write_pseudo_labels(teacher, images, values.out, strategy, options)
    except PrepareError as error:
        print(f"effnet-train pseudo-label: {error}", file=sys.stderr)
        return 1
    if written.was_complete:
        print("The shards were complete already; nothing was written")
    print(
        f"{written.folder}: {written.images:,} images, {written.examples:,} in an epoch; see "
        f"{os.path.join(written.folder, 'pseudo_labels.html')}"
    )
    print(
        "Train on them: effnet-train --recipe=noisy-student-finetune --data=LABELED "
        f"--unlabeled={written.folder} --workdir=student"
    )
    return 0
