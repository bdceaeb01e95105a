"""What values every tensor of the float model takes on real images: the ground of the ranges that a
:class:`~tflite.quantization.quantizer.QuantPlan` is converted with.
"""

import collections
import concurrent.futures
import hashlib
from dataclasses import dataclass

import numpy as np

from tflite import litert
from tflite.flatbuffer import ops
from tflite.quantization import range_estimation

MIN_IMAGES = 16
_BINS = 4096  # on each side of 0
_SAMPLE = 32768  # values of one tensor of one image that are counted; extremes are of all


@dataclass(frozen=True, eq=False)
class Observed:
    """The values of one tensor over all images."""

    low: float
    high: float
    width: float  # of a bin, a power of two
    counts: np.ndarray  # (2 * 4096,), bin i begins at (i - 4096) * width
    weights: np.ndarray  # the counts of every image divided by its own mean square
    channel_low: np.ndarray  # float32 (channels,), the last axis
    channel_high: np.ndarray

    @property
    def centers(self):
        """Value in the middle of every bin."""
        return (np.arange(2 * _BINS) - _BINS + 0.5) * self.width


def in_order(images):
    """Indices that bring images (n, height, width, 3) into an order of their own (of their hashes),
    so that nothing hangs on the order that they came in; any part of it is a fair sample.
    """
    return np.argsort([hashlib.sha256(image.tobytes()).hexdigest() for image in images])


def calibrate(float32_model, images, *, rule="minmax", min_images=MIN_IMAGES):
    """{tensor: {"min": float, "max": float}} of every activation, over uint8 images (n, height,
    width, 3).

    The order of the images does not matter. (The default of ai-edge-quantizer is a moving average
    which depends on it: the same 20 images gave a tensor (-17, 14) or (-5, 5).) The input's range
    is always (0, 255), so that its scale means pixels.

    Args:
        float32_model: bytes of a float32 .tflite with the images' size.
        images: as ``load_images`` gives them; 100 to 500 that look like those of later use.
        rule: how ranges follow from values, one of ``ranges.RULES``.
        min_images: fewer raise.

    Raises:
        ValueError: too few images, images of another shape or type, values that are not finite.
    """
    observed = collect_histograms(float32_model, images, min_images=min_images)
    return range_estimation.choose(float32_model, observed, rule)


def collect_histograms(float32_model, images, *, only=None, min_images=MIN_IMAGES):
    """{tensor: :class:`Observed`} of every activation, or of those in `only`; arguments and errors
    as ``calibrate``.
    """
    images = checked(float32_model, images, min_images)
    images = images[in_order(images)]
    tensors = ops.activations(float32_model)
    tensors = {name: i for name, i in tensors.items() if only is None or name in only}
    seen = {name: _Counter() for name in tensors}
    for made in _runs(float32_model, images):
        for name, index in tensors.items():
            seen[name].add(made.tensor(index)())
    found = {name: counter.result() for name, counter in seen.items()}
    for name, seen in found.items():
        if not np.isfinite([seen.low, seen.high]).all():
            raise ValueError(
                f"tensor {name!r} reaches {seen.low} to {seen.high} on the calibration images: the "
                "model's weights are not finite; it cannot be quantized"
            )
    return found


def checked(float32_model, images, min_images=MIN_IMAGES):
    """The images as an array, if the model takes them; ``ValueError`` otherwise."""
    images = np.asarray(images)
    require_images(len(images), min_images)
    want = litert.input_shape(float32_model)
    if images.dtype != np.uint8 or images.shape[1:] != want:
        raise ValueError(
            f"calibration images are {images.dtype} {images.shape}; this model takes uint8 "
            f"(n, {', '.join(map(str, want))}): see tflite.load_images"
        )
    return images


def require_images(count, min_images=MIN_IMAGES):
    """Raises ``ValueError`` for fewer calibration images than that."""
    if count < min_images:
        raise ValueError(
            f"calibration has {count} images and needs {min_images}: 100 to 500 do well; with a "
            "smaller min_images tflite.calibrate accepts fewer, at the price of accuracy"
        )


def require_variety(images):
    """Raises ``ValueError`` where calibration images are all the same, or flat: ranges of such are
    those of nothing.
    """
    if len(np.unique(images.reshape(len(images), -1), axis=0)) == 1:
        raise ValueError(
            f"the {len(images)} calibration images are all alike: give 100 to 500 different ones, "
            "like those of later use"
        )
    if (np.ptp(images, axis=(1, 2)) == 0).all():
        raise ValueError(
            "every calibration image is of one colour: give photos, like those of later use"
        )


def _runs(content, images):
    """An interpreter with all its tensors for every image; while one is looked at, the other runs.
    (Looking takes Python's lock: two threads that look are no faster than one.)
    """
    # Made one after the other: making one hides the native log, for the whole process.
    made = [litert.interpreter(content, keep_tensors=True) for _ in range(2)]
    feed = made[0].get_input_details()[0]["index"]

    def run(interpreter, image):
        interpreter.set_tensor(feed, image[None].astype(np.float32))
        interpreter.invoke()
        return interpreter

    with concurrent.futures.ThreadPoolExecutor(len(made)) as pool:
        running = collections.deque(map(pool.submit, [run] * len(made), made, images))
        for image in [*images[len(made) :], *[None] * len(running)]:
            interpreter = running.popleft().result()
            yield interpreter
            if image is not None:
                running.append(pool.submit(run, interpreter, image))


class _Counter:
    """A histogram that widens its bins by powers of two, each into two halves of a wider one: what
    it holds in the end is a function of the values, not of their order.
    """

    def __init__(self):
        self.low, self.high = np.inf, -np.inf
        self.width = None
        self.counts = np.zeros((2, 2 * _BINS))  # as they are, and by the image's mean square
        self.channels = None  # low, high

    def add(self, value):
        rows = value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)
        low, high = float(rows.min()), float(rows.max())
        self._extremes(low, high)
        if not np.isfinite([low, high]).all():
            return  # the caller raises
        step = -(-rows.size // _SAMPLE)
        # another offset for every tensor would be fairer still; a stride over positions will do
        sample = np.ascontiguousarray(rows[::step])
        self._widen(max(abs(low), abs(high)))
        at = np.floor(sample.reshape(-1) * np.float32(1 / self.width)).astype(np.intp)
        at += _BINS
        new = np.bincount(np.clip(at, 0, 2 * _BINS - 1, out=at), minlength=2 * _BINS)
        self.counts[0] += new
        self.counts[1] += new / max(float(np.vdot(sample, sample)) / sample.size, 1e-12)
        low, high = sample.min(0), sample.max(0)
        if self.channels is not None:
            low, high = np.minimum(self.channels[0], low), np.maximum(self.channels[1], high)
        self.channels = low, high

    def result(self):
        channels = self.channels or (np.zeros(1), np.zeros(1))
        return Observed(self.low, self.high, self.width or 1.0, *self.counts, *channels)

    def _extremes(self, low, high):  # numpy's: Python's min and max lose a nan
        self.low = float(np.minimum(self.low, low))
        self.high = float(np.maximum(self.high, high))

    def _widen(self, reach):
        """Bins wide enough for values up to `reach`."""
        need = 2.0 ** np.ceil(np.log2(max(reach, 1e-30) / _BINS))
        if self.width is None:
            self.width = need
        while self.width < need:
            pairs = self.counts.reshape(2, -1, 2).sum(-1)
            self.counts = np.zeros((2, 2 * _BINS))
            self.counts[:, _BINS // 2 : _BINS // 2 + _BINS] = pairs
            self.width *= 2
