"""Calibration images, and the histograms of every activation on them.

Quantization ranges are estimated from the histograms (``range_estimation``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnet.litert import ops, runner, runtime
from tflite.flatbuffer.sections import run_until
from tflite.quantization import range_estimation
from tflite.quantization.calibration_cache import CalibrationCache

MIN_IMAGES = 16
_BINS = 4096  # on each side of 0
_SAMPLE = 32768  # counted values per tensor and image; extremes are those of all values
_TOGETHER = 8  # images whose samples are counted at once, which is faster for small tensors
_THREADS = 2  # reading values takes Python's lock: more readers would not be faster


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Calibration images in hash order: the order in which they were loaded has no effect."""

    images: np.ndarray  # uint8 (n, height, width, 3)
    labels: np.ndarray | None  # (n,), in the same order
    sha256: str  # of all pixels in this order

    @classmethod
    def ordered(cls, images: np.ndarray, labels: np.ndarray | None = None) -> CalibrationImages:
        """The images sorted by the hash of their pixels, without copies.

        Copies would be learned from and held out, and each would count as evidence.

        Raises:
            ValueError: fewer than 16 different images, or images that are all alike.
        """
        require_images(len(images))
        require_variety(images)
        order = hash_order(images)
        copied = [np.array_equal(images[i], images[j]) for i, j in zip(order, order[1:])]
        order = order[~np.array([False, *copied])]
        if len(order) < MIN_IMAGES:
            raise ValueError(
                f"calibration has {len(images)} images, and only {len(order)} of them differ: give "
                f"100 to 500 different images, at least {MIN_IMAGES}"
            )
        images = images[order]
        digest = hashlib.sha256()
        for image in images:
            digest.update(image.tobytes())
        return cls(images, None if labels is None else labels[order], digest.hexdigest())

    def __len__(self):
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Histogram:
    """The values of one tensor over all images."""

    low: float
    high: float
    width: float  # of a bin; a power of two
    counts: np.ndarray  # (2 * 4096,), bin i starts at (i - 4096) * width
    weights: np.ndarray  # the counts of each image divided by its mean square
    channel_low: np.ndarray  # float32 (channels,), along the last axis
    channel_high: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """The value in the middle of each bin."""
        return (np.arange(2 * _BINS) - _BINS + 0.5) * self.width


def hash_order(images: np.ndarray) -> np.ndarray:
    """Indices that sort images (n, height, width, 3) by the SHA-256 of their pixels.

    The result of a computation then does not depend on the order of the input, and each part of
    the sorted images is a fair sample.
    """
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return np.argsort(digests, kind="stable")


def calibrate(
    float32_model: bytes,
    images: np.ndarray,
    *,
    estimator: str = "minmax",
    min_images: int = MIN_IMAGES,
) -> dict:
    """{tensor: {"min": float, "max": float}} of every activation, over uint8 images (n, height,
    width, 3).

    The order of the images has no effect. (ai-edge-quantizer's default, a moving average, depends
    on it: the same 20 images gave a tensor (-17, 14) or (-5, 5).) The input's range is always (0,
    255), so that one step of its scale is one grey level.

    Args:
        float32_model: bytes of a float32 .tflite for images of this size.
        images: as ``load_images`` returns them; 100 to 500 that resemble the images of later use.
        estimator: a name of ``range_estimation.ESTIMATORS``.
        min_images: fewer images are an error.

    Raises:
        ValueError: too few images, images of another shape or type, or values that are not finite.
    """
    histograms = collect_histograms(float32_model, images, min_images=min_images)
    return range_estimation.estimate_ranges(float32_model, histograms, estimator)


def collect_histograms(
    float32_model: bytes, images: np.ndarray, *, min_images: int = MIN_IMAGES
) -> dict[str, Histogram]:
    """{tensor: :class:`Histogram`} of every activation; arguments and errors as ``calibrate``."""
    images = _checked(float32_model, images, min_images)
    return accumulate_histograms(float32_model, images[hash_order(images)])


def accumulate_histograms(
    float32_model: bytes, images: np.ndarray, *, only: Collection[str] | None = None
) -> dict[str, Histogram]:
    """The same for images in hash order, which are not checked; `only` selects tensors by name.

    Raises:
        ValueError: values that are not finite.
    """
    tensors = ops.activations(float32_model)
    if only is None:
        runs = runner.run(float32_model, images, tensors.values(), threads=_THREADS)
    else:
        tensors = {name: i for name, i in tensors.items() if name in only}
        runs = run_until(float32_model, images, tensors.values(), threads=_THREADS)
    scratch = _Scratch()
    accumulators = {name: _Accumulator(scratch) for name in tensors}
    for number, values in enumerate(runs, start=1):
        for name, index in tensors.items():
            accumulators[name].add(values.view(index))
        if number % _TOGETHER == 0 or number == len(images):
            for accumulator in accumulators.values():
                accumulator.count()
    histograms = {name: accumulator.result() for name, accumulator in accumulators.items()}
    for name, histogram in histograms.items():
        if not np.isfinite([histogram.low, histogram.high]).all():
            raise ValueError(
                f"tensor {name!r} has values from {histogram.low} to {histogram.high} on the "
                "calibration images: the model's weights are not finite; it cannot be quantized"
            )
    return histograms


def cached_histograms(
    cache: CalibrationCache, float32_model: bytes, images: np.ndarray
) -> dict[str, Histogram]:
    """``accumulate_histograms`` of all tensors, through a cache."""

    def compute():
        return _packed(accumulate_histograms(float32_model, images))

    return _unpacked(cache.arrays("histograms", float32_model, images, compute))


def _packed(histograms):
    """Histograms as arrays; the order of the tensors is kept."""
    rows = histograms.values()
    return {
        "names": np.array(list(histograms), np.str_),
        "bounds": np.array([(row.low, row.high, row.width) for row in rows], np.float64),
        "counts": np.stack([row.counts for row in rows]),
        "weights": np.stack([row.weights for row in rows]),
        "channels": np.array([len(row.channel_low) for row in rows]),
        "channel_low": np.concatenate([row.channel_low for row in rows]),
        "channel_high": np.concatenate([row.channel_high for row in rows]),
    }


def _unpacked(arrays):
    ends = np.cumsum(arrays["channels"])[:-1]
    lows, highs = (np.split(arrays[key], ends) for key in ("channel_low", "channel_high"))
    rows = zip(arrays["names"], arrays["bounds"], arrays["counts"], arrays["weights"], lows, highs)
    return {
        str(name): Histogram(*map(float, bounds), counts, weights, low, high)
        for name, bounds, counts, weights, low, high in rows
    }


def merged_histograms(parts: Sequence[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    """The histograms over the images of all parts, of the same model."""
    merged = {}
    for name in parts[0]:
        accumulator = _Accumulator()
        for part in parts:
            accumulator.merge(part[name])
        merged[name] = accumulator.result()
    return merged


def _checked(float32_model, images, min_images):
    """The images as an array, if the model accepts them; ``ValueError`` otherwise."""
    images = np.asarray(images)
    require_images(len(images), min_images)
    shape = runtime.input_shape(float32_model)
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"calibration images are {images.dtype} {images.shape}; this model takes uint8 "
            f"(n, {', '.join(map(str, shape))}): see tflite.load_images"
        )
    return images


def require_images(count: int, min_images: int = MIN_IMAGES) -> None:
    """Raises ``ValueError`` for fewer than `min_images` calibration images."""
    if count < min_images:
        raise ValueError(
            f"calibration has {count} images and needs {min_images} or more: give 100 to 500. "
            "(tflite.calibrate accepts fewer with a smaller min_images, at a loss of accuracy.)"
        )


def require_variety(images: np.ndarray) -> None:
    """Raises ``ValueError`` if all calibration images are the same, or each is of one color."""
    if len(np.unique(images.reshape(len(images), -1), axis=0)) == 1:
        raise ValueError(
            f"the {len(images)} calibration images are identical; give 100 to 500 different "
            "images that resemble those of later use"
        )
    if (np.ptp(images, axis=(1, 2)) == 0).all():
        raise ValueError(
            "every calibration image is of one color; give photos that resemble those of later use"
        )


class _Scratch:
    """Arrays in memory that is used again. The system takes longer to provide new memory for a
    large array than NumPy takes to compute it.
    """

    def __init__(self):
        self._memory = {}

    def array(self, dtype, size):
        """An array (size,) with any values, in place of the last one of that type."""
        if dtype not in self._memory or len(self._memory[dtype]) < size:
            self._memory[dtype] = np.empty(size, dtype)
        return self._memory[dtype][:size]


class _Accumulator:
    """A histogram whose bins widen by powers of two, by merging neighbours.

    The result depends on the values, not on their order.
    """

    def __init__(self, scratch=None):
        self._scratch = scratch or _Scratch()
        self.low, self.high = np.inf, -np.inf
        self.width = None
        self.counts = np.zeros((2, 2 * _BINS))  # plain, and divided by the image's mean square
        self.channels = None  # low, high
        self._samples = []  # of the images that are not counted yet, (n, channels) each

    def add(self, value):
        """Adds the values of one image; ``count`` must follow."""
        rows = value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)
        self._samples.append(rows[:: -(-rows.size // _SAMPLE)].copy())
        if rows.size > _SAMPLE:  # else they are those of the sample
            self._extremes(float(rows.min()), float(rows.max()))

    def count(self):
        """Counts the images added since the last call."""
        samples, self._samples = self._samples, []
        size = sum(each.size for each in samples)
        sample = self._scratch.array(np.float32, size)
        np.concatenate(samples, out=sample.reshape(-1, samples[0].shape[1]))
        low, high = (end(sample.reshape(-1, samples[0].shape[1]), 0) for end in (np.min, np.max))
        self._extremes(float(low.min()), float(high.max()))
        if not np.isfinite([self.low, self.high]).all():
            return  # the caller raises
        self._widen(max(abs(self.low), abs(self.high)))
        np.multiply(sample, np.float32(1 / self.width), out=sample)
        np.floor(sample, out=sample)
        bins, weights = self._scratch.array(np.intp, size), self._scratch.array(np.float64, size)
        np.copyto(bins, sample, casting="unsafe")
        bins += _BINS
        np.clip(bins, 0, 2 * _BINS - 1, out=bins)
        start = 0
        for each in samples:
            square = max(float(np.vdot(each, each)) / each.size, 1e-12)
            weights[start : start + each.size] = 1 / square
            start += each.size
        self.counts[0] += np.bincount(bins, minlength=2 * _BINS)
        self.counts[1] += np.bincount(bins, weights, minlength=2 * _BINS)
        self._join_channels(low, high)

    def merge(self, histogram):
        """Adds the values of a histogram."""
        other = _Accumulator()
        other.width = histogram.width
        other.counts = np.stack([histogram.counts, histogram.weights])
        self._widen(histogram.width * _BINS)
        other._widen(self.width * _BINS)
        self.counts += other.counts
        self._extremes(histogram.low, histogram.high)
        self._join_channels(histogram.channel_low, histogram.channel_high)

    def result(self):
        channels = self.channels or (np.zeros(1), np.zeros(1))
        return Histogram(self.low, self.high, self.width or 1.0, *self.counts, *channels)

    def _extremes(self, low, high):  # NumPy's minimum and maximum keep NaN, Python's may not
        self.low = float(np.minimum(self.low, low))
        self.high = float(np.maximum(self.high, high))

    def _join_channels(self, low, high):
        if self.channels is not None:
            low, high = np.minimum(self.channels[0], low), np.maximum(self.channels[1], high)
        self.channels = low, high

    def _widen(self, maximum):
        """Widens the bins until they hold values up to `maximum`."""
        needed = 2.0 ** np.ceil(np.log2(max(maximum, 1e-30) / _BINS))
        if self.width is None:
            self.width = needed
        while self.width < needed:
            pairs = self.counts.reshape(2, -1, 2).sum(-1)
            self.counts = np.zeros((2, 2 * _BINS))
            self.counts[:, _BINS // 2 : _BINS // 2 + _BINS] = pairs
            self.width *= 2
