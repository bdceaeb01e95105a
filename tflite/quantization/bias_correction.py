"""Bias correction: what rounding adds to a channel on average is taken off its bias.

Rounded weights, clipped ranges and a sigmoid that ends at 255/256 shift the mean of every channel,
and shifts add up from block to block where noise does not. (Nagel et al. 2019, arXiv 1906.04721,
section 4.2, measured instead of derived.)
"""

import concurrent.futures

import numpy as np

from tflite import litert
from tflite.flatbuffer import ops, rewrite
from tflite.flatbuffer.graph import Graph

IMAGES = 32
_THREADS = 2  # with half of the images each


def correct_biases(content, images, quantized):
    """Bytes of the float .tflite with biases moved so that its quantized version has the float
    version's channel means on the images.

    One layer after the other, front to back: each is measured when those before it are corrected.
    (Several at a time would take off twice what the first hands on to the second.) The quantized
    file is made once; its biases are changed where they stand.

    Args:
        content: bytes of a float .tflite.
        images: uint8 (n, height, width, 3); 32 are used.
        quantized: function from bytes of a float .tflite to bytes of its quantized version.
    """
    images = images[:IMAGES]
    network = Graph(content)
    made = bytearray(quantized(network.content()))
    places = ops.bias_locations(made)
    rows = [op for op in network.operations if network.name(op.output) in places]
    want = _channel_means(content, images, [network.name(op.output) for op in rows])
    for op in rows:
        name = network.name(op.output)
        start, scales = places[name]
        [got] = _channel_means(rewrite.truncate_after(made, name), images).values()
        # the median: a few images that overflow their ranges would else decide
        shift = np.median(got - want[name], 0)
        whole = np.frombuffer(made, np.int32, len(shift), start)
        moved = np.clip(whole - np.rint(shift / scales), -(2**31) + 1, 2**31 - 1)
        made[start : start + whole.nbytes] = moved.astype(np.int32).tobytes()
        network.set_constant(op.inputs[2], network.constant(op.inputs[2]) - shift)
    return network.content()


def _channel_means(content, images, names=None):
    """{tensor: (images, channels)} of the means over each image, of float and of int8 tensors (by
    their scales): of those named, or of the output.
    """
    parts = [part for part in np.array_split(images, _THREADS) if len(part)]
    made = [litert.interpreter(content, keep_tensors=names is not None) for _ in parts]

    def run(made, part):
        feed = made.get_input_details()[0]
        details = made.get_output_details()
        if names is not None:
            details = [d for d in made.get_tensor_details() if d["name"] in names]
        rows = {d["name"]: [] for d in details}
        for image in part:
            made.set_tensor(feed["index"], image[None].astype(feed["dtype"]))
            made.invoke()
            for d in details:
                value = made.get_tensor(d["index"])
                mean = value.reshape(-1, value.shape[-1]).mean(0, np.float64)
                if value.dtype != np.float32:
                    scale, zero = d["quantization"]
                    mean = (mean - zero) * scale
                rows[d["name"]].append(mean)
        return rows

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        done = list(pool.map(run, made, parts))
    return {name: np.stack([m for rows in done for m in rows[name]]) for name in done[0]}
