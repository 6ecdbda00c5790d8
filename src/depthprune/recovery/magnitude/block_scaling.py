"""The parameters of a block that scale all it adds to the residual stream: found, and proved.

They are found by what writes into the stream, and proved by running a float32 copy of the block: on
a state α times as large it must give one α times as large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.replay import hidden_of, relative_difference
from depthprune.models.devices import plain_products
from depthprune.recovery.delta import Scaled
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.fold_target import CannotFoldError, find_fold_target
from depthprune.recovery.linear.probe import BATCH, LENGTH, Probe
from depthprune.recovery.linear.stages import find_stages
from depthprune.recovery.parameters import holders

LIMIT = 1e-3
"""Relative differences in float32 that rounding, and a norm's epsilon, explain."""

TRIED = 1.5
"""The factor by which it is proved that something can be scaled."""


def block_scaling(anatomy: Anatomy, block: int) -> dict[str, float]:
    """The parameters of a block that scale all it adds, with what each is counted from.

    Args:
        anatomy: Of the model; the block's weights must be in memory.
        block: Original number.

    Returns:
        By dotted name in the block an offset: a norm that multiplies by 1 + w has 1.

    Raises:
        ModelError: If the block cannot be scaled, naming what stands in the way.
    """
    try:
        target = find_fold_target(anatomy, block)
        terms, names = target.terms, {weight.name: 0.0 for weight in target.weights}
    except CannotFoldError:
        terms, names = (), {}
    stages = find_stages(anatomy, block, terms)
    probe = _probe(anatomy, block)
    own = dict(probe.module.named_parameters())
    for stage in stages:
        if stage.scale is None:
            continue
        module = stage.norm.module if stage.norm else stage.layers[0].module
        offset = 0.0
        if stage.norm is not None:
            gain = stage.norm.gain.to(own[f"{module}.weight"])
            offset = round((gain - own[f"{module}.weight"]).mean().item())
        names[f"{module}.weight"] = float(offset)
        if f"{module}.bias" in own:
            names[f"{module}.bias"] = 0.0
    with plain_products(), torch.inference_mode():
        _prove(probe, names)
    _refuse_shared(anatomy, block, names)
    return names


def _probe(anatomy: Anatomy, block: int) -> Probe:
    try:
        with plain_products():
            return Probe(anatomy, block)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"--recover magnitude: block {block} could not be probed; pass --recover linear"
        ) from error


def _prove(probe: Probe, names: Mapping[str, float]) -> None:
    """Whether the block on a state scaled by a factor gives one scaled alike."""
    # Larger than embeddings are, so that a norm's epsilon is nothing beside it.
    state = probe.random(BATCH, LENGTH, probe.width) * 4

    def run(states: Tensor) -> Tensor:
        args = tuple(states if _is_state(a, states) else a for a in probe.args)
        kwargs = {k: states if _is_state(a, states) else a for k, a in probe.kwargs.items()}
        return hidden_of(probe.module(*args, **kwargs))

    base = run(state)
    own = {name: probe.module.get_parameter(name).data for name in names}
    new = {name: Scaled(TRIED, offset).added_to(own[name]) for name, offset in names.items()}
    with swapped(probe.module, new):
        scaled = run(TRIED * state)
    if relative_difference(scaled, TRIED * base) > LIMIT:
        rest = [name for name, p in probe.module.named_parameters() if name not in names]
        raise ModelError(
            f"--recover magnitude: block {probe.number} does not scale with {', '.join(names)}: "
            f"what {few(rest)} add has a size of its own; pass --recover linear"
        )


def _is_state(value: Any, like: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == like.shape and value.is_floating_point()


def few(names: Sequence[str]) -> str:
    """Some names of parameters, in words."""
    shown = ", ".join(names[:4])
    return f"{shown} or {len(names) - 4} more" if len(names) > 4 else shown or "no parameter"


def _refuse_shared(anatomy: Anatomy, block: int, names: Mapping[str, float]) -> None:
    held, own = holders(anatomy.module), anatomy.blocks.modules[block]
    shared = [name for name in names if held[id(own.get_parameter(name))] > 1]
    if shared:
        raise ModelError(
            f"--recover magnitude: block {block} shares {shared[0]} with another module, which "
            "would be scaled too; pass --recover linear"
        )
