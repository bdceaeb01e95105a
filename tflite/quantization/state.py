"""The state of the quantization pipeline: the float model and its ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tflite.flatbuffer.graph import LINEAR, Graph
from tflite.quantization.plan import QuantPlan
from tflite.quantization.quantizer import quantize


@dataclass(frozen=True)
class State:
    """What a quantization step transforms. Immutable: a step returns a changed copy."""

    float32_model: bytes  # what is quantized
    ranges: dict | None = None  # {tensor: {"min", "max"}}; None if only weights are quantized
    estimator: str = "minmax"  # a name of range_estimation.ESTIMATORS
    histograms: Mapping = field(default_factory=dict)  # {tensor: calibration.Histogram}
    exact_model: bytes = b""  # the model after function-preserving transforms only
    uncompensated_model: bytes = b""  # before biases and weights compensate int8 activations

    def quantized(self, plan: QuantPlan) -> bytes:
        """Bytes of the model quantized by a plan."""
        return quantize(self.float32_model, self.ranges, plan)

    def quantized_with_regions(self, plan: QuantPlan) -> bytes:
        """The same by a plan that leaves more ops in float32 than the pipeline assumed."""
        return quantize(self.model_for(plan), self.ranges, plan)

    def model_for(self, plan: QuantPlan) -> bytes:
        """The float model for a plan: layers in float32 get their uncompensated weights and biases.

        They would otherwise compensate errors of int8 activations that do not occur.
        """
        floats = plan.outputs("float32")
        graph, uncompensated = Graph(self.float32_model), Graph(self.uncompensated_model)
        for op, before in zip(graph.operations, uncompensated.operations):
            if op.name in LINEAR and graph.name(op.output) in floats:
                for tensor, source in zip(op.inputs[1:], before.inputs[1:]):
                    if source >= 0 and uncompensated.is_constant(source):
                        graph.set_constant(tensor, uncompensated.constant(source))
        return graph.content()
