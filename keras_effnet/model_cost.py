"""Parameters, multiply-adds and activation memory of a network. No Keras, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

from keras_effnet.network_plan import Plan, plan
from keras_effnet.variants import Variant


@dataclass(frozen=True)
class Cost:
    """The cost of a network. The papers call multiply-adds FLOPs."""

    parameters: int  # weights and batch-norm statistics
    trainable: int  # without the batch-norm statistics
    macs: int  # multiply-adds of the convolutions and the classifier, for one image
    activation_bytes: int  # outputs of all convolutions and the classifier, for the batch
    image_size: int
    batch_size: int


def cost(
    model: str | Variant | Plan,
    *,
    image_size: int | None = None,
    batch_size: int = 1,
    classes: int = 1000,
    include_top: bool = True,
    bytes_per_value: int = 4,
) -> Cost:
    """The :class:`Cost` of a variant at `image_size` pixels a side (default: its evaluation size).

    `activation_bytes` counts the outputs of all convolutions, the minimum that training must store;
    `bytes_per_value` is 4 for float32, 2 for bfloat16. As in the papers' tables, batch norm and
    activation functions are not counted as multiply-adds. Raises ``ValueError`` for an unknown
    name, or an image size, batch size or number of classes below 1.

    >>> cost("efficientnet-b0").parameters
    5330564
    """
    p = model if isinstance(model, Plan) else plan(model)
    size = p.image_size if image_size is None else image_size
    for what, value in (("image_size", size), ("batch_size", batch_size), ("classes", classes)):
        if value < 1:
            raise ValueError(f"{what} {value} is too small: give at least 1")

    tally = _Tally()
    side = -(-size // 2)
    tally.conv(3, p.stem_filters, kernel_area=p.stem_kernel_size**2, side=side)
    tally.batch_norm(p.stem_filters)
    side = -(-side // 2) if p.stem_pool else side
    for b in p.blocks:
        area = b.kernel_size**2
        out_side = -(-side // b.stride)
        if b.op == "bottleneck":
            tally.conv(b.in_filters, b.expand_filters, 1, side)
            tally.conv(b.expand_filters, b.expand_filters, area, out_side)
            tally.batch_norm(2 * b.expand_filters)
            if b.projects_shortcut:
                tally.conv(b.in_filters, b.out_filters, 1, out_side)
                tally.batch_norm(b.out_filters)
            project_area = 1
        elif b.op == "fused":
            if b.expands:
                tally.conv(b.in_filters, b.expand_filters, area, out_side)
                tally.batch_norm(b.expand_filters)
            project_area = 1 if b.expands else area
        else:
            if b.expands:
                tally.conv(b.in_filters, b.expand_filters, 1, side)
                tally.batch_norm(b.expand_filters)
            # depthwise: one input channel for each output channel
            tally.conv(1, b.expand_filters, area, out_side)
            tally.batch_norm(b.expand_filters)
            project_area = 1
        if b.se_filters:
            tally.conv(b.expand_filters, b.se_filters, 1, 1, bias=True)
            tally.conv(b.se_filters, b.expand_filters, 1, 1, bias=True)
        tally.conv(b.expand_filters, b.out_filters, project_area, out_side)
        tally.batch_norm(b.out_filters)
        side = out_side
    if p.head_filters:
        tally.conv(p.blocks[-1].out_filters, p.head_filters, 1, side)
        tally.batch_norm(p.head_filters)
    if include_top:
        tally.conv(p.head_filters or p.blocks[-1].out_filters, classes, 1, 1, bias=True)
    return Cost(
        parameters=tally.trainable + tally.statistics,
        trainable=tally.trainable,
        macs=tally.macs,
        activation_bytes=tally.outputs * batch_size * bytes_per_value,
        image_size=size,
        batch_size=batch_size,
    )


class _Tally:
    def __init__(self):
        self.trainable = self.statistics = self.macs = self.outputs = 0

    def conv(self, in_channels, filters, kernel_area, side, bias=False):
        weights = in_channels * filters * kernel_area
        self.trainable += weights + (filters if bias else 0)
        self.macs += weights * side * side
        self.outputs += filters * side * side

    def batch_norm(self, channels):
        self.trainable += 2 * channels
        self.statistics += 2 * channels
