"""Evaluates a .tflite against a reference on the same images: accuracy drop and its significance,
prediction agreement, KL divergence, size, latency, acceleration.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import textwrap
from dataclasses import dataclass

import numpy as np

from keras_effnet.evaluation.intervals import wilson
from keras_effnet.evaluation.probabilities import log_probabilities
from keras_effnet.litert import classifier, ops, runner, runtime
from tflite.evaluation import paired_statistics
from tflite.evaluation.output_error import OutputError, output_errors
from tflite.evaluation.user_metric import MetricLoss, UserMetric, metric_loss

NAMES = ("float32", "int8")
RUNS = 50  # timed runs of each model
_TOP = 5


@dataclass(frozen=True, eq=False)
class EvaluationImages:
    """Images to evaluate on, as ``load_images`` returns them."""

    images: np.ndarray  # uint8 (n, height, width, 3)
    labels: np.ndarray | None = None  # (n,) integers in [0, classes); None: no accuracy
    source: str = "images"  # where the images are from, for the report
    candidate_images: np.ndarray | None = None  # the same, in another size of the candidate
    class_names: tuple[str, ...] | None = None  # of class folders or data sets


@dataclass(frozen=True)
class Metrics:
    """Measurements of one .tflite."""

    top1: float | None  # in [0, 1]; None without labels
    size: int  # bytes
    latency_ms: float  # median of one image, one thread
    fully_accelerated: bool  # XNNPACK runs every op on this machine
    float_ops: dict[str, int]  # ops that compute in float32
    top5: float | None = None  # in [0, 1]; None without labels, and for five classes or fewer
    latency_2_threads_ms: float | None = None


@dataclass(frozen=True)
class ChangedPrediction:
    """An image that the two models classify differently."""

    index: int  # of the image
    reference: int  # predicted class
    candidate: int
    reference_score: float  # probability of the predicted class
    candidate_score: float  # probability of the predicted class
    margin: float  # the reference's probability of its prediction minus that of the candidate's
    label: int | None

    @property
    def outcome(self) -> str | None:
        """One of "right->wrong", "wrong->right" and "wrong->wrong"; None without a label."""
        if self.label is None:
            return None
        predictions = (self.reference, self.candidate)
        return "->".join("right" if p == self.label else "wrong" for p in predictions)


@dataclass(frozen=True)
class EvaluationReport:
    """A reference model and, unless it is None, a candidate on the same images.

    ``print(report)`` shows a table; ``as_dict()`` returns JSON types.
    """

    images: int
    reference: Metrics
    candidate: Metrics | None
    agreement: float | None  # share of images with equal predictions, in [0, 1]
    machine: str  # that the latency was measured on
    source: str  # where the images are from
    agreement_confidence_interval: tuple[float, float] | None = None  # 95 %, Wilson
    drop: paired_statistics.Drop | None = None  # of top-1; None without labels
    kl_divergence: float | None = None  # mean KL(reference || candidate) in nats, see ``evaluate``
    changed_predictions: tuple[ChangedPrediction, ...] = ()  # largest margin first
    outputs: tuple[OutputError, ...] = ()  # of models that are no classifiers; agreement is None
    names: tuple[str, str] = NAMES
    metric: MetricLoss | None = None  # the user's own metric

    @property
    def size_ratio(self) -> float | None:
        """Reference size / candidate size: 3.4 means 3.4 times smaller."""
        return None if self.candidate is None else self.reference.size / self.candidate.size

    @property
    def latency_ratio(self) -> float | None:
        """Candidate latency / reference latency: 0.5 means twice as fast."""
        if self.candidate is None:
            return None
        return self.candidate.latency_ms / self.reference.latency_ms

    @property
    def latency_ratio_2_threads(self) -> float | None:
        """The latency ratio with two threads."""
        if self.candidate is None:
            return None
        return self.candidate.latency_2_threads_ms / self.reference.latency_2_threads_ms

    def as_dict(self) -> dict:
        """The report in JSON types."""
        return {
            **dataclasses.asdict(self),
            "changed_predictions": [
                {**dataclasses.asdict(c), "outcome": c.outcome} for c in self.changed_predictions
            ],
            "size_ratio": self.size_ratio,
            "latency_ratio": self.latency_ratio,
            "latency_ratio_2_threads": self.latency_ratio_2_threads,
        }

    def __str__(self):
        return "\n".join(_table(self))


def evaluate(
    reference: bytes,
    candidate: bytes | None,
    images: EvaluationImages,
    *,
    names: tuple[str, str] = NAMES,
    runs: int = RUNS,
    metric: UserMetric | None = None,
) -> EvaluationReport:
    """The :class:`EvaluationReport` of two .tflite models on the same images.

    Inputs may be uint8, int8 or float32 (pixels in [0, 255], or normalized as the file's metadata
    says), outputs float32 or quantized. The KL divergence is the mean of KL(reference || candidate)
    over the images. Logits are normalized by a softmax, softmax outputs to sum 1; the divergences
    of sigmoid outputs, one for each class, are summed. The last op of a model determines its output
    activation. If only one of the models ends in a sigmoid, the KL divergence is None.

    Args:
        reference: .tflite bytes, usually of the float32 model.
        candidate: .tflite bytes, usually of the converted model; None evaluates only the reference.
        images: to evaluate on.
        names: of the two models, for the report and for errors.
        runs: timed runs of each model.
        metric: the user's own metric, which is evaluated, too.

    Raises:
        ValueError: not an image classifier, images or labels that do not fit the models, or a
            metric that fails.
    """
    contents = [reference] if candidate is None else [reference, candidate]
    models = [classifier.open_classifier(c, name) for c, name in zip(contents, names)]
    pixels = [images.images]
    pixels.append(images.images if images.candidate_images is None else images.candidate_images)
    pixels = [np.asarray(each) for each in pixels[: len(models)]]
    labels = _checked(models, pixels, images.labels if models[0].is_classifier else None)

    scores = [classifier.scores(model, each) for model, each in zip(models, pixels)]
    predictions = [each.argmax(-1) for each in scores]
    metrics = _metrics(models, pixels, scores, labels, runs)
    report = EvaluationReport(
        images=len(pixels[0]),
        reference=metrics[0],
        candidate=None,
        agreement=None,
        machine=platform.machine(),
        source=images.source,
        names=tuple(names),
        metric=_metric_loss(metric, models, pixels, images.labels),
    )
    if candidate is None:
        return report
    if not models[0].is_classifier:
        return dataclasses.replace(
            report, candidate=metrics[1], outputs=output_errors(models[0].outputs, *scores)
        )
    logs = [
        log_probabilities(each, model.output_activation, output_scale=model.output_scale)
        for each, model in zip(scores, models)
    ]
    equal = int((predictions[0] == predictions[1]).sum())
    return dataclasses.replace(
        report,
        candidate=metrics[1],
        agreement=equal / report.images,
        agreement_confidence_interval=wilson(equal, report.images),
        drop=None
        if labels is None
        else paired_statistics.drop(*(p == labels for p in predictions)),
        kl_divergence=_kl_divergence(logs, models),
        changed_predictions=_changed(*(np.exp(log) for log in logs), *predictions, labels),
    )


def _metric_loss(metric, models, pixels, labels):
    if metric is None:
        return None
    values = [metric(classifier.outputs(*each), labels) for each in zip(models, pixels)]
    return metric_loss(metric, values[0], values[1] if len(values) > 1 else None)


def _checked(models, pixels, labels):
    """The labels as an array; ``ValueError`` for images or labels that do not fit the models."""
    for model, images in zip(models, pixels):
        shape = (model.height, model.width, model.channels)
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise ValueError(
                f"evaluation images are {images.dtype} {images.shape}; this model takes uint8 "
                f"(n, {', '.join(map(str, shape))}), n at least 1: see tflite.load_images"
            )
    if len({model.classes for model in models}) > 1 or len({len(images) for images in pixels}) > 1:
        raise ValueError(
            f"the models have {' and '.join(str(m.classes) for m in models)} classes and get "
            f"{' and '.join(str(len(images)) for images in pixels)} images; both must be equal"
        )
    if labels is None:
        return None
    labels, classes = np.asarray(labels), models[0].classes
    if labels.shape != pixels[0].shape[:1] or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels {labels.shape} are between {labels.min()} and {labels.max()}; this model has "
            f"{classes} classes, 0 to {classes - 1}, and there are {len(pixels[0])} images"
        )
    return labels


def _metrics(models, pixels, scores, labels, runs):
    latencies = {threads: _latencies_ms(models, pixels, runs, threads) for threads in (1, 2)}
    return [
        Metrics(
            top1=None if labels is None else float((scores[i].argmax(-1) == labels).mean()),
            size=len(model.tflite_model),
            latency_ms=latencies[1][i],
            fully_accelerated=runtime.is_fully_accelerated(model.tflite_model),
            float_ops=ops.count_ops(_float_ops(model.tflite_model)),
            top5=None if labels is None else _top5(scores[i], labels),
            latency_2_threads_ms=latencies[2][i],
        )
        for i, model in enumerate(models)
    ]


def _latencies_ms(models, pixels, runs, num_threads):
    return runner.latencies_ms(
        [model.tflite_model for model in models],
        runs,
        images=[images[0] for images in pixels],
        num_threads=num_threads,
        to_inputs=[functools.partial(classifier.to_input, model) for model in models],
    )


def _float_ops(tflite_model):
    """Ops that compute in float32; a DEQUANTIZE only converts."""
    rows = ops.read_ops(tflite_model)
    return [op for op in rows if op.dtype == "FLOAT32" and op.name != "DEQUANTIZE"]


def _top5(scores, labels):
    if scores.shape[1] <= _TOP:
        return None
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :_TOP]  # first of equal ones, as argmax
    return float((best == labels[:, None]).any(-1).mean())


def _kl_divergence(logs, models):
    if len({model.output_activation == "sigmoid" for model in models}) > 1:
        return None
    return float(paired_statistics.divergences(*logs, models[0].output_activation).mean())


def _changed(reference, candidate, a, b, labels):
    """:class:`ChangedPrediction` rows of probabilities and predictions, largest margin first."""
    rows = [
        ChangedPrediction(
            index=int(i),
            reference=int(a[i]),
            candidate=int(b[i]),
            reference_score=float(reference[i, a[i]]),
            candidate_score=float(candidate[i, b[i]]),
            margin=float(reference[i, a[i]] - reference[i, b[i]]),
            label=None if labels is None else int(labels[i]),
        )
        for i in np.flatnonzero(a != b)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.margin, row.index)))


def _table(report):
    """The lines of a report as a table of at most 100 columns."""
    columns = [report.reference, *([report.candidate] if report.candidate else [])]

    def row(name, cells, note=""):
        return f"{name:<14}{''.join(f'{cell:>12}' for cell in cells)}  {note}".rstrip()

    names = report.names[: len(columns)]
    lines = [row("", names)]
    if max(map(len, names)) >= 12:  # the end of a file name does not tell files apart
        roles = ("reference", "candidate")[: len(columns)]
        lines = [f"{role:<14}{name}" for role, name in zip(roles, names)] + [row("", roles)]
    for name, values in (
        ("top-1", [c.top1 for c in columns]),
        ("top-5", [c.top5 for c in columns]),
    ):
        if values[0] is not None:
            lines.append(row(name, [f"{v:.2%}" for v in values], f"of {report.images:,} images"))
    if report.metric is not None:
        lines += _metric_rows(report.metric, row)
    if report.outputs:
        lines += _output_rows(report, row)
    elif report.candidate is not None:
        lines += _comparison_rows(report, row)
    size = ""
    if report.candidate is not None:
        ratio = report.size_ratio
        size = f"{ratio:.1f}x smaller" if ratio >= 1 else f"{1 / ratio:.1f}x larger"
        size = "the same size" if ratio == 1 else size
    lines.append(row("size", [f"{c.size / 1e6:.2f} MB" for c in columns], size))
    for name, values, note in (
        ("latency", [c.latency_ms for c in columns], f"one image, 1 thread, {report.machine}"),
        ("2 threads", [c.latency_2_threads_ms for c in columns], ""),
    ):
        if report.candidate is not None:
            note = f"{values[0] / values[1]:.1f}x as fast{note and f', {note}'}"
        lines.append(row(name, [f"{v:.2f} ms" for v in values], note))
    accelerated = ["fully" if c.fully_accelerated else "partly" for c in columns]
    lines.append(row("accelerated", accelerated, "whether XNNPACK runs every op"))
    if report.candidate is not None:
        counts = ", ".join(f"{op} {n}" for op, n in report.candidate.float_ops.items()) or "none"
        lines += textwrap.wrap(f"{'float32 ops':<14}{counts}", 100, subsequent_indent=" " * 14)
    lines.append(f"{'measured on':<14}{report.source}")
    return lines


def _metric_rows(metric, row):
    better = "lower" if metric.lower_is_better else "higher"
    values = [v for v in (metric.reference, metric.candidate) if v is not None]
    lines = [row(metric.name[:14], [f"{v:.5g}" for v in values], f"{better} is better")]
    if metric.loss is not None:
        note = "positive: worse"
        if metric.confidence_interval is not None:
            low, high = metric.confidence_interval
            note += f"; {low:+.3g} to {high:+.3g} (95 %)"
        lines.append(row("  loss", ["", f"{metric.loss:+.4g}"], note))
    return lines


def _output_rows(report, row):
    lines = []
    for output in report.outputs:
        note = f"mean absolute error; standard deviation {output.standard_deviation:.4g}"
        lines.append(row(output.name[:14], ["", f"{output.mean_absolute_error:.4g}"], note))
        for value, form, note in (
            (output.correlation, "{:.5f}", "correlation of the outputs"),
            (output.sqnr_db, "{:.1f} dB", "SQNR of the outputs"),
        ):
            if value is not None:
                lines.append(row("", ["", form.format(value)], note))
    return lines


def _comparison_rows(report, row):
    lines = []
    if report.drop is not None:
        low, high = report.drop.confidence_interval
        note = f"points, {low:+.2f} to {high:+.2f} (95 %); McNemar p = {report.drop.p_value:.2g}"
        lines.append(row("drop", ["", f"{report.drop.points:+.2f}"], note))
    low, high = report.agreement_confidence_interval
    equal = report.images - len(report.changed_predictions)
    note = f"equal top-1 on {equal:,} of {report.images:,}; {low:.2%} to {high:.2%} (95 %)"
    lines.append(row("agreement", ["", f"{report.agreement:.2%}"], note))
    if report.kl_divergence is not None:
        note = "nats, mean KL(reference || candidate); 0: equal scores"
        lines.append(row("KL divergence", ["", f"{report.kl_divergence:.4f}"], note))
    return lines
