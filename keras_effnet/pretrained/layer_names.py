"""What other projects call the parts of a network: one table a project, written beside ours.

A plan's weighted layers are its :func:`parts`; :class:`Names` says what a project calls each of
them. Nothing here reads a file; names only.
"""

import re
from dataclasses import dataclass

# Our layers, by kind of block. What does not exist in a block of a plan (squeeze-and-excitation)
# is left out there.
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
class Part:
    """One layer that has weights."""

    layer: str  # its name in our network
    kind: str  # "conv" | "biased conv" | "depthwise" | "batch_norm" | "dense"
    theirs: str  # its name in the other project


@dataclass(frozen=True)
class Names:
    """What a project calls our layers.

    Names are formatted with ``{stage}`` (from 0), ``{stage1}`` (from 1), ``{position}`` in the
    stage, ``{index}`` over all blocks (both from 0), ``{name}`` (our block's) and ``{last}`` (the
    number of stages + 1).
    """

    ends: dict  # stem_conv, stem_bn, top_conv, top_bn, predictions -> name
    block: str  # the prefix of a block's names
    mbconv: dict  # an MBConv block that expands: our role -> name
    mbconv_plain: dict  # one that does not
    fused: dict
    fused_plain: dict
    # where a forward pass shows what we compare: {"stem": ..., "top": ...}, and blocks at `block`
    outputs: dict = None


def parts(plan, names, *, include_top=True):
    """Every layer of a plan that has weights, in the network's order, as a list of :class:`Part`.

    >>> from keras_effnet.network_plan import plan
    >>> from keras_effnet.porting.pytorch import TIMM
    >>> parts(plan("efficientnet-b0"), TIMM)[7].theirs
    'blocks.0.0.bn2'
    """
    last = {"last": _stage(plan.blocks[-1]) + 1}

    def end(role, kind):
        return Part(role, kind, names.ends[role].format(**last))

    found = [end("stem_conv", "conv"), end("stem_bn", "batch_norm")]
    for block, place in places(plan):
        table = _table(names, block)
        for role, kind in _ROLES[block.op]:
            exists = {"expand": block.expands, "se": block.se_filters}
            if not exists.get(role.split("_")[0], True):
                continue
            ours = plan.depthwise_name if role == "dwconv" else role
            theirs = (names.block + table[role]).format(**place)
            found.append(Part(f"{block.name}_{ours}", kind, theirs))
    found += [end("top_conv", "conv"), end("top_bn", "batch_norm")]
    if include_top:
        found.append(end("predictions", "dense"))
    return found


def places(plan):
    """(block, its place as a dict for ``str.format``) of every block, in the plan's order.

    The order counts, never the sorted names: past 26 blocks of a stage the letters are za, zb ...
    """
    position = 0
    for index, block in enumerate(plan.blocks):
        stage = _stage(block)
        position = position + 1 if index and _stage(plan.blocks[index - 1]) == stage else 0
        place = {
            "stage": stage - 1,
            "stage1": stage,
            "position": position,
            "index": index,
            "name": block.name,
        }
        yield block, place


def check(path, plan, missing, extra):
    """Raises ``ValueError`` that names every variable which is missing or left over, in the other
    project's words; returns None if there is none.
    """
    if not missing and not extra:
        return
    said = [f"{len(missing)} missing: {', '.join(missing)}"] if missing else []
    said += [f"{len(extra)} left over: {', '.join(extra)}"] if extra else []
    raise ValueError(
        f"{path} does not hold {plan.name}: {'; '.join(said)}. Another variant, another project, "
        "or another version of either?"
    )


def _table(names, block):
    if block.op == "fused":
        return names.fused if block.expands else names.fused_plain
    return names.mbconv if block.expands else names.mbconv_plain


def _stage(block):
    return int(re.match(r"block(\d+)", block.name).group(1))
