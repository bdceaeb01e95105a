"""The official code's block strings: the stages of a network as text, in both directions.

``r4_k3_s2_e4_i24_o48_c1`` is a stage of 4 blocks with 3 x 3 kernels, stride 2 in the first block,
expand ratio 4, 24 input and 48 output filters; ``c1`` makes them Fused-MBConv, ``se0.25`` adds
squeeze-and-excitation. Source: google/automl efficientnetv2, ``effnetv2_configs.py``. This package
adds ``c2``, ResNet's bottleneck block. No Keras, no TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from keras_effnet.variants import Stage

_CONVOLUTION_OPS = {0: "mbconv", 1: "fused", 2: "bottleneck"}  # the number after "c"
_EXAMPLE = "r4_k3_s2_e4_i24_o48_c1"
_REQUIRED = {
    "r": "the number of blocks",
    "k": "the kernel size",
    "s": "the stride",
    "e": "the expand ratio",
    "i": "the input filters",
    "o": "the output filters",
}


def format_stages(stages: Sequence[Stage], stem_filters: int) -> tuple[str, ...]:
    """One block string for each stage; `stem_filters` are the input filters of the first.

    >>> from keras_effnet import VARIANTS
    >>> v = VARIANTS["efficientnetv2-s"]
    >>> format_stages(v.stages, v.stem_filters)[1:4:2]
    ('r4_k3_s2_e4_i24_o48_c1', 'r6_k3_s2_e4_i64_o128_se0.25')
    """
    strings, filters = [], stem_filters
    for s in stages:
        text = (
            f"r{s.repeats}_k{s.kernel_size}_s{s.stride}_e{s.expand_ratio}_i{filters}_o{s.filters}"
        )
        text += f"_se{s.se_ratio:g}" if s.se_ratio else ""
        convolution = {op: number for number, op in _CONVOLUTION_OPS.items()}[s.op]
        strings.append(text + (f"_c{convolution}" if convolution else ""))
        filters = s.filters
    return tuple(strings)


def parse_stages(strings: Sequence[str]) -> tuple[tuple[Stage, ...], int]:
    """(the stages of block strings, the stem's filters).

    Both spellings of the stride are accepted, ``s2`` and V1's ``s22``. Raises ``ValueError`` for a
    string that is malformed, for an option that this package does not build, and for a stage
    whose input filters are not the output filters of the stage before it.

    >>> stages, stem_filters = parse_stages(["r1_k3_s11_e1_i32_o16_se0.25"])
    >>> stages[0].op, stages[0].repeats, stem_filters
    ('mbconv', 1, 32)
    """
    if isinstance(strings, str) or not strings:
        raise ValueError(f"give a list of block strings, such as ['{_EXAMPLE}'], not {strings!r}")
    stages, inputs = [], []
    for text in strings:
        stage, in_filters = _parse_stage(text)
        if stages and stages[-1].filters != in_filters:
            raise ValueError(
                f"block string {text!r} has {in_filters} input filters, but the stage before it "
                f"has {stages[-1].filters} output filters: write i{stages[-1].filters}"
            )
        stages.append(stage)
        inputs.append(in_filters)
    return tuple(stages), inputs[0]


def _parse_stage(text):
    options = _options(text)
    for key, meaning in _REQUIRED.items():
        if key not in options:
            raise ValueError(
                f"block string {text!r} lacks {meaning} ({key}...); an example: {_EXAMPLE}"
            )
    numbers = {key: _whole_number(options[key], key, text) for key in "rkeio"}
    stride = options["s"]
    if stride not in ("1", "2", "11", "22"):
        raise ValueError(f"block string {text!r} has the stride {stride!r}: give s1 or s2")
    convolution = options.get("c", "0")
    if convolution not in map(str, _CONVOLUTION_OPS):
        raise ValueError(
            f"block string {text!r} has the convolution type c{convolution}: give c1 for "
            "Fused-MBConv, c2 for ResNet's bottleneck, or omit it for MBConv"
        )
    return Stage(
        op=_CONVOLUTION_OPS[int(convolution)],
        kernel_size=numbers["k"],
        stride=int(stride[0]),
        expand_ratio=numbers["e"],
        filters=numbers["o"],
        repeats=numbers["r"],
        se_ratio=_se_ratio(options.get("se", "0"), text),
    ), numbers["i"]


def _options(text):
    options = {}
    for part in text.split("_") if isinstance(text, str) else [text]:
        match = re.fullmatch(r"([a-z]+)([0-9.]+)", part) if isinstance(part, str) else None
        if not match or match[1] not in (*_REQUIRED, "se", "c") or match[1] in options:
            raise ValueError(
                f"block string {text!r}: cannot read {part!r}; an example: {_EXAMPLE}. Options: r, "
                "k, s, e, i, o once each, then se and c if needed"
            )
        options[match[1]] = match[2]
    return options


def _whole_number(digits, key, text):
    if not digits.isdigit() or int(digits) < 1:
        raise ValueError(
            f"block string {text!r}: {key}{digits} is not {_REQUIRED[key]}, a whole number of at "
            "least 1"
        )
    return int(digits)


def _se_ratio(digits, text):
    try:
        ratio = float(digits)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError(
            f"block string {text!r}: se{digits} is not a squeeze-and-excitation ratio in [0, 1]"
        )
    return ratio
