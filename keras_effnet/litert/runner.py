"""Runs .tflite models on images: the only place that drives an interpreter."""

from __future__ import annotations

import collections
import concurrent.futures
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from keras_effnet.litert import runtime


class Tensors(Mapping):
    """The tensors of one image, {name or index: value}. Each access copies one value.

    Valid until the next image: a later access raises ``RuntimeError``.
    """

    def __init__(self, interpreter, details):
        self._interpreter, self._details = interpreter, details

    def __getitem__(self, key) -> np.ndarray:
        self._require_current()
        return self._interpreter.get_tensor(self._details[key]["index"])

    def __iter__(self):
        return iter(self._details)

    def __len__(self):
        return len(self._details)

    def view(self, key) -> np.ndarray:
        """The value without a copy. Keep no reference to it, nor to a part of it, beyond the next
        image: the interpreter refuses to run while there is one.
        """
        self._require_current()
        return self._interpreter.tensor(self._details[key]["index"])()

    def quantization(self, key) -> tuple[float, int]:
        """(scale, zero point) of a tensor; scale 0 for float."""
        return self._details[key]["quantization"]

    def real(self, key) -> np.ndarray:
        """The float32 value of a tensor, dequantized if it is quantized."""
        value = self[key]
        scale, zero = self.quantization(key)
        if not scale:
            return value
        return ((value.astype(np.int32) - zero) * scale).astype(np.float32)

    def _require_current(self):
        if self._interpreter is None:
            raise RuntimeError(
                "these tensors belong to an earlier image; read them before the next"
            )

    def _expire(self):
        self._interpreter = None


def cast_to_input(image: np.ndarray, details: dict) -> np.ndarray:
    """The image as a batch of 1 in the data type of an input; values do not change."""
    return image[None].astype(details["dtype"])


def run(
    tflite_model: bytes,
    images: np.ndarray,
    tensors: Iterable[str | int] | None = None,
    *,
    threads: int = 1,
    to_input: Callable[[np.ndarray, dict], np.ndarray] = cast_to_input,
) -> Iterator[Tensors]:
    """Runs a .tflite image model on one image at a time; yields :class:`Tensors`, in image order.

    The values do not depend on `threads`: every image is computed by one interpreter. While the
    caller reads the tensors of one image, the other threads compute the next ones. The interpreters
    are made before this function returns, in the caller's thread.

    >>> for values in run(tflite_model, images, ["block1a_add"]):  # doctest: +SKIP
    ...     print(values["block1a_add"].shape)

    Args:
        tflite_model: bytes; a batch larger than 1 is resized to 1.
        images: (n, height, width, channels).
        tensors: names or indices; None yields the outputs, by name.
        threads: number of interpreters that run at the same time.
        to_input: function (image, input details of LiteRT) -> value of the model's input.

    Raises:
        KeyError: the model has no tensor of that name or index.
    """
    # One after the other: making an interpreter hides the native log of the whole process.
    interpreters = [
        open_interpreter(tflite_model, keep_tensors=tensors is not None)
        for _ in range(max(1, min(threads, len(images))))
    ]
    return run_interpreters(interpreters, images, tensors, to_input=to_input)


def run_interpreters(
    interpreters: Sequence,
    images: np.ndarray,
    tensors: Iterable[str | int] | None = None,
    *,
    to_input: Callable[[np.ndarray, dict], np.ndarray] = cast_to_input,
) -> Iterator[Tensors]:
    """As :func:`run`, with allocated interpreters of one model, which take turns."""

    def set_inputs(interpreter, image):
        _set_input(interpreter, image, to_input)

    return _rows(interpreters, _details(interpreters[0], tensors), images, set_inputs)


def run_section(
    tflite_model: bytes,
    inputs: Sequence[Mapping[int, np.ndarray]],
    tensors: Iterable[int],
    *,
    threads: int = 1,
) -> Iterator[Tensors]:
    """Runs a .tflite on inputs {index: value}; yields :class:`Tensors`, in the order of the inputs.

    Args:
        tflite_model: bytes; its inputs keep their shapes.
        inputs: values, which are cast to the data types of the inputs.
        tensors: indices of outputs.
        threads: number of interpreters that run at the same time.
    """
    interpreters = [
        runtime.interpreter(tflite_model) for _ in range(max(1, min(threads, len(inputs))))
    ]
    types = {row["index"]: row["dtype"] for row in interpreters[0].get_input_details()}

    def set_inputs(interpreter, values):
        for index, dtype in types.items():
            interpreter.set_tensor(index, values[index].astype(dtype, copy=False))

    return _rows(interpreters, _details(interpreters[0], tensors), inputs, set_inputs)


def open_interpreter(tflite_model: bytes, *, num_threads: int = 1, keep_tensors: bool = False):
    """An allocated LiteRT interpreter that takes one image.

    Args:
        tflite_model: bytes; a batch larger than 1 is resized to 1.
        num_threads: threads of each op.
        keep_tensors: whether every intermediate tensor can be read.

    Raises:
        RuntimeError, ValueError: LiteRT cannot run the model, or cannot resize its batch.
    """
    interpreter = runtime.interpreter(
        tflite_model, num_threads=num_threads, keep_tensors=keep_tensors
    )
    batch, *rest = (int(n) for n in interpreter.get_input_details()[0]["shape"])
    if batch != 1:
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, [1, *rest])
        interpreter.allocate_tensors()
    return interpreter


def tensor_shapes(tflite_model: bytes) -> dict[int, tuple[int, ...]]:
    """{index: shape} of every tensor, for one image."""
    details = open_interpreter(tflite_model).get_tensor_details()
    return {each["index"]: tuple(int(n) for n in each["shape"]) for each in details}


def scores(tflite_model: bytes, images: np.ndarray, *, interpreter=None) -> np.ndarray:
    """The first output, (images, classes) float32, dequantized if it is quantized.

    The images are cast to the data type of the input. Use ``classifier.scores`` for a
    model that expects normalized or quantized inputs.

    Args:
        tflite_model: bytes.
        images: (n, height, width, channels).
        interpreter: an allocated interpreter of the model, e.g. with other kernels. Default: LiteRT
            with XNNPACK.
    """
    interpreter = interpreter or open_interpreter(tflite_model)
    rows = run_interpreters([interpreter], images)
    return np.stack([values.real(next(iter(values)))[0] for values in rows])


def signature_outputs(tflite_model: bytes, images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """{name: output} of each image, by the names of the signature, whose input is ``images``."""
    run_signature = runtime.interpreter(tflite_model).get_signature_runner()
    for image in images:
        yield run_signature(images=image[None])


def latencies_ms(
    tflite_models: Sequence[bytes],
    runs: int,
    *,
    images: Sequence[np.ndarray] | None = None,
    num_threads: int = 1,
    to_inputs: Sequence[Callable[[np.ndarray, dict], np.ndarray]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median latency of one image in ms, of each model.

    The models take turns, so that other load on the machine slows all of them alike. One run of
    each model before is not timed.

    Args:
        tflite_models: bytes of each model.
        runs: timed runs of each model.
        images: an image for each model; None leaves the inputs as allocated.
        num_threads: threads of each op.
        to_inputs: function for each model, as in ``run``.
        clock: function that returns seconds; ``time.thread_time`` counts only this thread's time.
    """
    interpreters = [open_interpreter(model, num_threads=num_threads) for model in tflite_models]
    to_inputs = to_inputs or [cast_to_input] * len(interpreters)
    for interpreter, image, to_input in zip(
        interpreters, () if images is None else images, to_inputs
    ):
        _set_input(interpreter, image, to_input)
    for interpreter in interpreters:
        interpreter.invoke()
    times = [[] for _ in interpreters]
    for _ in range(runs):
        for interpreter, durations in zip(interpreters, times):
            start = clock()
            interpreter.invoke()
            durations.append((clock() - start) * 1e3)
    return [statistics.median(durations) for durations in times]


def _details(interpreter, tensors):
    """{name or index: details} of the tensors, in the order given; of the outputs for None."""
    if tensors is None:
        return {details["name"]: details for details in interpreter.get_output_details()}
    known = {}
    for details in interpreter.get_tensor_details():
        known[details["index"]] = details
        known.setdefault(details["name"], details)
    return {key: known[key] for key in tensors}


def _rows(interpreters, details, inputs, set_inputs):
    def compute(interpreter, values):
        set_inputs(interpreter, values)
        interpreter.invoke()
        return interpreter

    with concurrent.futures.ThreadPoolExecutor(len(interpreters)) as pool:
        running = collections.deque(
            map(pool.submit, [compute] * len(interpreters), interpreters, inputs)
        )
        for image in [*inputs[len(interpreters) :], *[None] * len(running)]:
            interpreter = running.popleft().result()
            values = Tensors(interpreter, details)
            yield values
            values._expire()
            if image is not None:
                running.append(pool.submit(compute, interpreter, image))


def _set_input(interpreter, image, to_input):
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(details["index"], to_input(image, details))
