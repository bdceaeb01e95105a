"""The names that other projects give to the layers of a network.

:func:`weighted_layers` lists a plan's layers that have weights, with our name and a project's. A
project's names are a :class:`LayerNames` table, written beside ours. Nothing here reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keras_effnet.network_plan import Block, Plan

# Our layers in each kind of block: (role, kind). A block without expansion or
# squeeze-and-excitation lacks those layers.
_ROLES = {
    "mbconv": (
        ("expand_conv", "conv"),
        ("expand_bn", "batch_norm"),
        ("dwconv", "depthwise"),
        ("bn", "batch_norm"),
        ("se_reduce", "biased conv"),
        ("se_expand", "biased conv"),
        ("project_conv", "conv"),
        ("project_bn", "batch_norm"),
    ),
    "fused": (
        ("expand_conv", "conv"),
        ("expand_bn", "batch_norm"),
        ("project_conv", "conv"),
        ("project_bn", "batch_norm"),
    ),
}


@dataclass(frozen=True)
class WeightedLayer:
    """One layer that has weights."""

    name: str  # in our network
    kind: str  # "conv" | "biased conv" | "depthwise" | "batch_norm" | "dense"
    source_name: str  # in the other project


@dataclass(frozen=True)
class LayerNames:
    """A project's names of our layers.

    Names are templates for ``str.format`` with ``{stage}`` (from 0), ``{stage1}`` (from 1),
    ``{position}`` in the stage, ``{index}`` over all blocks (both from 0), ``{name}`` (our block's)
    and ``{last}`` (the number of stages + 1).
    """

    ends: Mapping[str, str]  # stem_conv, stem_bn, top_conv, top_bn, predictions -> name
    block: str  # the prefix of a block's names
    mbconv: Mapping[str, str]  # an MBConv block with expansion: our role -> name
    mbconv_plain: Mapping[str, str]  # an MBConv block without expansion
    fused: Mapping[str, str]  # the same for Fused-MBConv blocks
    fused_plain: Mapping[str, str]
    # modules whose outputs are compared: {"stem": ..., "top": ...}; a block's is `block`
    outputs: Mapping[str, str] | None = None


def weighted_layers(
    plan: Plan, names: LayerNames, *, include_top: bool = True
) -> list[WeightedLayer]:
    """All layers of a plan that have weights, in the network's order.

    >>> from keras_effnet.network_plan import plan
    >>> from keras_effnet.pretrained.pytorch_projects import TIMM
    >>> weighted_layers(plan("efficientnet-b0"), TIMM)[7].source_name
    'blocks.0.0.bn2'
    """
    last = {"last": _stage(plan.blocks[-1]) + 1}

    def end(role, kind):
        return WeightedLayer(role, kind, names.ends[role].format(**last))

    layers = [end("stem_conv", "conv"), end("stem_bn", "batch_norm")]
    for block, position in block_positions(plan):
        table = _table(names, block)
        for role, kind in _ROLES[block.op]:
            exists = {"expand": block.expands, "se": block.se_filters}
            if not exists.get(role.split("_")[0], True):
                continue
            name = plan.depthwise_name if role == "dwconv" else role
            source_name = (names.block + table[role]).format(**position)
            layers.append(WeightedLayer(f"{block.name}_{name}", kind, source_name))
    layers += [end("top_conv", "conv"), end("top_bn", "batch_norm")]
    if include_top:
        layers.append(end("predictions", "dense"))
    return layers


def block_positions(plan: Plan) -> Iterator[tuple[Block, dict[str, int | str]]]:
    """(block, the values of a :class:`LayerNames` template) for every block, in the plan's order.

    The order counts, not the sorted names: after 26 blocks of a stage the letters are za, zb ...
    """
    position = 0
    for index, block in enumerate(plan.blocks):
        stage = _stage(block)
        position = position + 1 if index and _stage(plan.blocks[index - 1]) == stage else 0
        yield (
            block,
            {
                "stage": stage - 1,
                "stage1": stage,
                "position": position,
                "index": index,
                "name": block.name,
            },
        )


def check_names(path: str, plan: Plan, missing: Sequence[str], extra: Sequence[str]) -> None:
    """Raises ``ValueError`` that names all missing and left-over variables of a file, if any."""
    if not missing and not extra:
        return
    problems = [f"{len(missing)} missing: {', '.join(missing)}"] if missing else []
    problems += [f"{len(extra)} left over: {', '.join(extra)}"] if extra else []
    raise ValueError(
        f"{path} does not hold {plan.name}: {'; '.join(problems)}. Is it another variant, another "
        "project, or another version of either?"
    )


def _table(names, block):
    if block.op == "fused":
        return names.fused if block.expands else names.fused_plain
    return names.mbconv if block.expands else names.mbconv_plain


def _stage(block):
    return int(re.match(r"block(\d+)", block.name).group(1))
