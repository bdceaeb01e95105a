"""Float and converted .tflite side by side on the same images: accuracy, agreement, size, latency,
and what does not run accelerated.
"""

import dataclasses
import platform
import statistics
import time
from dataclasses import dataclass

import numpy as np

from tflite import graph, litert

_RUNS = 50


@dataclass(frozen=True)
class Measured:
    """What was measured of one .tflite."""

    top1: "float | None"  # share of the labels, in [0, 1]; None without labels
    size: int  # bytes
    latency_ms: float  # one image, one thread, median
    fully_accelerated: bool  # every op runs in XNNPACK on this machine
    float_ops: "dict[str, int]"  # ops whose output is float32


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

    @property
    def size_ratio(self):
        """Float size divided by int8 size: 3.4 means 3.4 times smaller. None without int8."""
        return None if self.int8 is None else self.float32.size / self.int8.size

    @property
    def latency_ratio(self):
        """Int8 latency divided by float latency: 0.5 means twice as fast. None without int8."""
        return None if self.int8 is None else self.int8.latency_ms / self.float32.latency_ms

    def as_dict(self):
        """Numbers, strings, lists and dictionaries only."""
        ratios = {"size_ratio": self.size_ratio, "latency_ratio": self.latency_ratio}
        return {**dataclasses.asdict(self), **ratios}

    def __str__(self):
        columns = [self.float32] if self.int8 is None else [self.float32, self.int8]

        def row(name, cells, note=""):
            return f"{name:<14}{''.join(f'{cell:>12}' for cell in cells)}  {note}".rstrip()

        lines = [row("", ["float32", "int8"][: len(columns)])]
        if self.float32.top1 is not None:
            lines.append(
                row("top-1", [f"{c.top1:.2%}" for c in columns], f"of {self.images:,} images")
            )
        faster = smaller = ""
        if self.int8 is not None:
            same = round(self.agreement * self.images)
            note = f"the same top-1 as float32 on {same:,} of {self.images:,} images"
            lines.append(row("agreement", ["", f"{self.agreement:.2%}"], note))
            smaller = f"{self.size_ratio:.1f}x smaller"
            faster = f"{1 / self.latency_ratio:.1f}x as fast, "
        lines += [
            row("size", [f"{c.size / 1e6:.2f} MB" for c in columns], smaller),
            row(
                "latency",
                [f"{c.latency_ms:.2f} ms" for c in columns],
                f"{faster}one image, 1 thread, {self.machine}",
            ),
            row(
                "accelerated",
                ["fully" if c.fully_accelerated else "partly" for c in columns],
                "whether XNNPACK runs every op",
            ),
        ]
        if self.int8 is not None:
            left = ", ".join(f"{name} {n}" for name, n in self.int8.float_ops.items()) or "none"
            lines.append(f"{'still float':<14}{left}")
        lines.append(f"{'measured on':<14}{self.source}")
        return "\n".join(lines)


def verify(float_tflite, int8_tflite, images, labels=None, *, source="images", runs=_RUNS):
    """A :class:`Report` of two .tflite in bytes, on the same uint8 images (n, height, width, 3).

    Args:
        float_tflite: the float32 model.
        int8_tflite: the converted one; None reports on the float model alone.
        images: as ``load_images`` gives them.
        labels: (n,) integers in [0, classes), or None: then there is no top-1.
        source: where the images are from, for the report.
        runs: how many times each is timed, in turns, so that whatever else the machine does hits
            both.

    Raises:
        ValueError: images or labels that the model does not have.
    """
    images = np.asarray(images)
    contents = [float_tflite] if int8_tflite is None else [float_tflite, int8_tflite]
    models = [litert.interpreter(content) for content in contents]
    want = tuple(int(n) for n in models[0].get_input_details()[0]["shape"][1:])
    classes = int(models[0].get_output_details()[0]["shape"][-1])
    if images.dtype != np.uint8 or images.shape[1:] != want or not len(images):
        raise ValueError(
            f"verification images are {images.dtype} {images.shape}; this model takes uint8 "
            f"(n, {', '.join(map(str, want))}), n at least 1: see tflite.load_images"
        )
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels {labels.shape} run from {labels.min()} to {labels.max()}; this model has "
                f"{classes} classes, 0 to {classes - 1}, and there are {len(images)} images"
            )

    top = [litert.scores(model, images).argmax(-1) for model in models]
    latencies = _latencies_ms(models, runs)
    measured = [
        Measured(
            top1=None if labels is None else float((t == labels).mean()),
            size=len(content),
            latency_ms=latency,
            fully_accelerated=litert.is_fully_accelerated(content),
            float_ops=graph.census(_float_ops(content)),
        )
        for content, t, latency in zip(contents, top, latencies)
    ]
    paired = int8_tflite is not None
    return Report(
        images=len(images),
        float32=measured[0],
        int8=measured[1] if paired else None,
        agreement=float((top[0] == top[1]).mean()) if paired else None,
        machine=platform.machine(),
        source=source,
    )


def _float_ops(content):
    """Ops that compute in float; a DEQUANTIZE only hands over."""
    return [
        op for op in graph.read_ops(content) if op.dtype == "FLOAT32" and op.name != "DEQUANTIZE"
    ]


def _latencies_ms(models, runs):
    """Median time of one image in every model, measured in turns."""
    times = [[] for _ in models]
    for _ in range(runs):
        for model, log in zip(models, times):
            start = time.perf_counter()
            model.invoke()
            log.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(log) for log in times]
