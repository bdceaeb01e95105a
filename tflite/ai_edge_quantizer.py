"""Access to ai-edge-quantizer. No other module imports this package, which the extra
``keras_effnet[tflite]`` installs.
"""

from __future__ import annotations

import numpy as np

from keras_effnet.litert.runtime import MISSING, quiet

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def static(
    tflite_model: bytes,
    ranges: dict[str, dict[str, float]],
    float_rules,
    *,
    activations: str = "int8",
    float_ends: bool = True,
) -> bytes:
    """A .tflite with int8 weights and int8 or int16 activations, quantized by ai-edge-quantizer.

    Args:
        tflite_model: float32 .tflite.
        ranges: {tensor: {"min", "max"}} of every activation.
        float_rules: (op name, regular expression of ``"output tensor;"``) pairs of the ops that
            stay in float32; their weights are int8.
        activations: "int8" or "int16".
        float_ends: whether input and output stay float32.
    """
    _, qtyping, quantizer, recipe = aeq = _quantizer()
    rows = recipe.static_wi8_ai8() if activations == "int8" else recipe.static_wi8_ai16()
    quantize = quantizer.Quantizer(tflite_model, rows)
    known = {op.value for op in qtyping.TFLOperationName}  # other ops stay float32
    ends = [("INPUT", ".*"), ("OUTPUT", ".*")] if float_ends else []
    for op, pattern in [*float_rules, *ends]:
        if op not in known:
            continue
        if op in _WEIGHTED:
            quantize.add_weight_only_config(pattern, qtyping.TFLOperationName(op), num_bits=8)
        else:
            quantize.update_quantization_recipe(
                pattern,
                qtyping.TFLOperationName(op),
                algorithm_key=aeq[0].AlgorithmName.NO_QUANTIZE,
            )
    if activations == "int16":  # symmetric, as all 16-bit kernels need
        ranges = {
            name: dict.fromkeys(bounds, max(map(abs, bounds.values())))
            for name, bounds in ranges.items()
        }
        ranges = {name: {"min": -b["min"], "max": b["max"]} for name, b in ranges.items()}
    arrays = {
        name: {end: np.float32(value).reshape(1, 1) for end, value in bounds.items()}
        for name, bounds in ranges.items()
    }
    with quiet():
        result = quantize.quantize(arrays, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def float_activations(tflite_model: bytes, weights: str) -> bytes:
    """A .tflite that computes in float32, with its weights stored as "float16" or "int8"."""
    manager, qtyping, quantizer, recipe = _quantizer()
    if weights == "int8":
        quantize = quantizer.Quantizer(tflite_model, recipe.weight_only_wi8_afp32())
    else:
        quantize = quantizer.Quantizer(tflite_model)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=qtyping.TensorDataType.FLOAT
            ),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        quantize.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=config,
            algorithm_key=manager.AlgorithmName.FLOAT_CASTING,
        )
    with quiet():
        result = quantize.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _quantizer():
    try:
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe
    except ImportError as error:
        raise ImportError(MISSING.format(error)) from error
    return algorithm_manager, qtyping, quantizer, recipe
