"""Writes a .tflite with aligned buffers.

Every file written here has 16-byte aligned buffers. Python's writer of the format does not align
them, and the runtime copies misaligned weights at every start. Files that are read may store
buffers behind the flatbuffer, as ai-edge-quantizer writes them from 256 KiB up; a plain read and
write of such a file silently loses the weights.
"""

from __future__ import annotations

import flatbuffers
import numpy as np

from keras_effnet.litert.ops import ALIGNMENT
from keras_effnet.litert.runtime import flatbuffer_tools


class _Builder(flatbuffers.Builder):
    """Writes equal zero points only once. Nearly all are those of weights: zeros, 8 bytes for each
    channel, which would be a tenth of an int8 file.
    """

    def __init__(self):
        super().__init__(1 << 20)  # initial bytes
        self._zero_points = {}

    def CreateNumpyVector(self, x):  # noqa: N802
        if x.dtype != np.int64:
            return super().CreateNumpyVector(x)
        key = x.tobytes()
        if key not in self._zero_points:
            self._zero_points[key] = super().CreateNumpyVector(x)
        return self._zero_points[key]


def write(tree) -> bytes:
    """Bytes of a ``ModelT``, with every buffer at a multiple of 16 bytes. Changes the tree."""
    tools = flatbuffer_tools()

    class Aligned(tools.BufferT):
        def Pack(self, builder):  # noqa: N802
            if self.data is None or len(self.data) == 0:
                return super().Pack(builder)
            data = bytes(self.data)
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            builder.StartObject(3)
            builder.PrependUOffsetTRelativeSlot(0, vector, 0)
            return builder.EndObject()

    tree.buffers = [Aligned(data=buffer.data) for buffer in tree.buffers]
    for tensor in (tensor for graph in tree.subgraphs for tensor in graph.tensors):
        q = tensor.quantization
        if q is not None and q.scale is not None and q.zeroPoint is not None:
            q.scale, q.zeroPoint = np.asarray(q.scale, "<f4"), np.asarray(q.zeroPoint, "<i8")
    builder = _Builder()
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
