"""Float and converted .tflite side by side on the same images: accuracy and what its difference is
worth, agreement, size, latency, and what does not run accelerated.
"""

import dataclasses
import functools
import platform
import textwrap
from dataclasses import dataclass

import numpy as np

from tflite import litert
from tflite.evaluation import classifier, paired_statistics
from tflite.flatbuffer import ops, runner

_RUNS = 50
_TOP = 5
_TITLES = ("float32", "int8")


@dataclass(frozen=True)
class Measured:
    """What was measured of one .tflite."""

    top1: "float | None"  # share of the labels, in [0, 1]; None without labels
    size: int  # bytes
    latency_ms: float  # one image, one thread, median
    fully_accelerated: bool  # every op runs in XNNPACK on this machine
    float_ops: "dict[str, int]"  # ops whose output is float32
    top5: "float | None" = None  # None also where there are five classes or fewer
    latency_2_threads_ms: "float | None" = None


@dataclass(frozen=True)
class Changed:
    """An image whose answer is not the same in both files."""

    index: int  # among the images
    first: int  # the answer of the first file, a class
    second: int
    first_score: float  # the first file's probability of its own answer
    second_score: float  # the second's of its own
    margin: float  # by how much the first file preferred its answer to the second's
    label: "int | None"

    @property
    def kind(self):
        """One of "right->wrong", "wrong->right" and "wrong->wrong"; None without a label."""
        if self.label is None:
            return None
        return "->".join("right" if a == self.label else "wrong" for a in (self.first, self.second))


@dataclass(frozen=True)
class Report:
    """A float .tflite, and the int8 one if there is one, on the same images. ``print(report)`` is a
    table; ``as_dict()`` fits into JSON.
    """

    images: int
    float32: Measured
    int8: "Measured | None"
    agreement: "float | None"  # share of the images with the same top-1 in both, in [0, 1]
    machine: str  # where the latency was measured
    source: str  # where the images are from
    agreement_interval: "tuple[float, float] | None" = None  # 95 %, Wilson
    drop: "paired_statistics.Drop | None" = None  # of top-1; None without labels
    divergence: "float | None" = None  # mean KL(float || int8), nats; None where endings differ
    changed: "tuple[Changed, ...]" = ()  # the surest first
    titles: "tuple[str, str]" = _TITLES

    @property
    def size_ratio(self):
        """Float size divided by int8 size: 3.4 means 3.4 times smaller. None without int8."""
        return None if self.int8 is None else self.float32.size / self.int8.size

    @property
    def latency_ratio(self):
        """Int8 latency divided by float latency: 0.5 means twice as fast. None without int8."""
        return None if self.int8 is None else self.int8.latency_ms / self.float32.latency_ms

    @property
    def latency_ratio_2_threads(self):
        """The same with two threads."""
        if self.int8 is None:
            return None
        return self.int8.latency_2_threads_ms / self.float32.latency_2_threads_ms

    def as_dict(self):
        """Numbers, strings, lists and dictionaries only."""
        return {
            **dataclasses.asdict(self),
            "changed": [{**dataclasses.asdict(c), "kind": c.kind} for c in self.changed],
            "size_ratio": self.size_ratio,
            "latency_ratio": self.latency_ratio,
            "latency_ratio_2_threads": self.latency_ratio_2_threads,
        }

    def __str__(self):
        columns = [self.float32] if self.int8 is None else [self.float32, self.int8]

        def row(name, cells, note=""):
            return f"{name:<14}{''.join(f'{cell:>12}' for cell in cells)}  {note}".rstrip()

        lines = [row("", [title[-12:] for title in self.titles[: len(columns)]])]
        for name, values in (
            ("top-1", [c.top1 for c in columns]),
            ("top-5", [c.top5 for c in columns]),
        ):
            if values[0] is not None:
                lines.append(row(name, [f"{v:.2%}" for v in values], f"of {self.images:,} images"))
        if self.drop is not None:
            d = self.drop
            note = f"points, {d.low:+.2f} to {d.high:+.2f} (95 %); McNemar p = {d.p_value:.2g}"
            lines.append(row("drop", ["", f"{d.points:+.2f}"], note))
        if self.int8 is not None:
            low, high = self.agreement_interval
            same = self.images - len(self.changed)
            note = f"the same top-1 on {same:,} of {self.images:,}; {low:.2%} to {high:.2%} (95 %)"
            lines.append(row("agreement", ["", f"{self.agreement:.2%}"], note))
            if self.divergence is not None:
                note = "nats an image from the first's scores (KL); 0 is the same"
                lines.append(row("divergence", ["", f"{self.divergence:.4f}"], note))
        smaller = ""
        if self.int8 is not None:
            ratio = self.size_ratio
            smaller = f"{ratio:.1f}x smaller" if ratio >= 1 else f"{1 / ratio:.1f}x larger"
        lines.append(row("size", [f"{c.size / 1e6:.2f} MB" for c in columns], smaller))
        for name, values, note in (
            ("latency", [c.latency_ms for c in columns], f"one image, 1 thread, {self.machine}"),
            ("2 threads", [c.latency_2_threads_ms for c in columns], ""),
        ):
            if self.int8 is not None:
                note = f"{values[0] / values[1]:.1f}x as fast{note and f', {note}'}"
            lines.append(row(name, [f"{v:.2f} ms" for v in values], note))
        accelerated = ["fully" if c.fully_accelerated else "partly" for c in columns]
        lines.append(row("accelerated", accelerated, "whether XNNPACK runs every op"))
        if self.int8 is not None:
            left = ", ".join(f"{name} {n}" for name, n in self.int8.float_ops.items()) or "none"
            lines += textwrap.wrap(f"{'still float':<14}{left}", 100, subsequent_indent=" " * 14)
        lines.append(f"{'measured on':<14}{self.source}")
        return "\n".join(lines)


def verify(
    float32_model,
    int8_tflite,
    images,
    labels=None,
    *,
    source="images",
    runs=_RUNS,
    title="int8",
    first_title="float32",
    second_images=None,
):
    """A :class:`Report` of two .tflite in bytes, on the same uint8 images (n, height, width, 3).

    Inputs may be uint8, int8 or float32 (in [0, 255], or as the file's metadata says), outputs
    float32 or quantized. The divergence
    is the mean over the images of KL(first || second) in nats: logits are normalised by a softmax,
    softmax outputs to sum 1; sigmoid outputs are a yes or no a class, their divergences summed. The
    last op of each file says which; files that end differently (one of them in a sigmoid) have
    none. The interval of the drop is Tango's for paired proportions, that of the agreement
    Wilson's.

    Args:
        float32_model: the float32 model, or any to compare with.
        int8_tflite: the converted one; None reports on the float model alone.
        images: as ``load_images`` gives them.
        labels: (n,) integers in [0, classes), or None: then there is no top-1.
        source: where the images are from, for the report.
        runs: how many times each is timed, in turns, so that whatever else the machine does hits
            both.
        title: of the second column, e.g. the preset's name.
        first_title: of the first.
        second_images: the same images for a second model of another size.

    Raises:
        ValueError: images or labels that the model does not have.
    """
    titles = (first_title, title)
    contents = [float32_model] if int8_tflite is None else [float32_model, int8_tflite]
    models = [classifier.open_classifier(c, t) for c, t in zip(contents, titles)]
    given = [images, images if second_images is None else second_images]
    sets = [np.asarray(i) for i in given[: len(models)]]
    labels = _checked(models, sets, labels)

    scores = [classifier.scores(model, part) for model, part in zip(models, sets)]
    top = [s.argmax(-1) for s in scores]
    times = {n: _latencies_ms(models, sets, runs, n) for n in (1, 2)}
    measured = [
        Measured(
            top1=None if labels is None else float((t == labels).mean()),
            size=len(model.content),
            latency_ms=times[1][i],
            fully_accelerated=litert.is_fully_accelerated(model.content),
            float_ops=ops.count_ops(_float_ops(model.content)),
            top5=None if labels is None else _top5(scores[i], labels),
            latency_2_threads_ms=times[2][i],
        )
        for i, (model, t) in enumerate(zip(models, top))
    ]
    report = Report(
        images=len(sets[0]),
        float32=measured[0],
        int8=None,
        agreement=None,
        machine=platform.machine(),
        source=source,
        titles=titles,
    )
    if int8_tflite is None:
        return report
    logs = [
        paired_statistics.log_probabilities(s, model.ending, step=model.step)
        for s, model in zip(scores, models)
    ]
    same = int((top[0] == top[1]).sum())
    comparable = len({model.ending == "sigmoid" for model in models}) == 1
    return dataclasses.replace(
        report,
        int8=measured[1],
        agreement=same / len(sets[0]),
        agreement_interval=paired_statistics.wilson(same, len(sets[0])),
        drop=None if labels is None else paired_statistics.drop(*(t == labels for t in top)),
        divergence=float(paired_statistics.divergences(*logs, models[0].ending).mean())
        if comparable
        else None,
        changed=_changed(*(np.exp(log) for log in logs), *top, labels),
    )


def _checked(models, sets, labels):
    """The labels as an array; ``ValueError`` for what does not fit the models."""
    for model, images in zip(models, sets):
        want = (model.height, model.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != want or not len(images):
            raise ValueError(
                f"verification images are {images.dtype} {images.shape}; this model takes uint8 "
                f"(n, {', '.join(map(str, want))}), n at least 1: see tflite.load_images"
            )
    if len({model.classes for model in models}) > 1 or len({len(s) for s in sets}) > 1:
        raise ValueError(
            f"the models have {' and '.join(str(m.classes) for m in models)} classes, and get "
            f"{' and '.join(str(len(s)) for s in sets)} images; both must be the same"
        )
    if labels is None:
        return None
    labels, classes = np.asarray(labels), models[0].classes
    if labels.shape != sets[0].shape[:1] or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels {labels.shape} run from {labels.min()} to {labels.max()}; this model has "
            f"{classes} classes, 0 to {classes - 1}, and there are {len(sets[0])} images"
        )
    return labels


def _top5(scores, labels):
    if scores.shape[1] <= _TOP:
        return None
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :_TOP]  # the first of equals, as argmax
    return float((best == labels[:, None]).any(-1).mean())


def _changed(first, second, a, b, labels):
    """Every :class:`Changed`, the image first that the first file was surest of."""
    rows = [
        Changed(
            index=int(i),
            first=int(a[i]),
            second=int(b[i]),
            first_score=float(first[i, a[i]]),
            second_score=float(second[i, b[i]]),
            margin=float(first[i, a[i]] - first[i, b[i]]),
            label=None if labels is None else int(labels[i]),
        )
        for i in np.flatnonzero(a != b)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.margin, row.index)))


def _float_ops(content):
    """Ops that compute in float; a DEQUANTIZE only hands over."""
    return [op for op in ops.read_ops(content) if op.dtype == "FLOAT32" and op.name != "DEQUANTIZE"]


def _latencies_ms(models, sets, runs, num_threads):
    """Median time of one image in every model, measured in turns."""
    return runner.latencies_ms(
        [model.content for model in models],
        runs,
        images=[images[0] for images in sets],
        num_threads=num_threads,
        to_inputs=[functools.partial(classifier.to_input, model) for model in models],
    )
