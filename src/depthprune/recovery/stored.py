"""From a model's parameters to a checkpoint's tensors: what surgery is to write.

A parameter may stand in a file under another name, turned round, or with each expert apart, as
transformers lays out a model when it loads it. So tensors are found by what they hold: the one of
the block that equals the parameter (or its slice) in the model's dtype. The change is then written
into the file's own values, in the file's dtype, and what a reload gives is what parity compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.checkpoint import Checkpoint
from depthprune.models.loading import Model
from depthprune.recovery.fold import folded
from depthprune.recovery.result import Change, Recovery
from depthprune.recovery.stored_low_rank import add_low_rank
from depthprune.recovery.tensors import as_stored, find, tensors_of


def stored(
    recovery: Recovery, model: Model, checkpoint: Checkpoint, block_prefix: str | None = None
) -> tuple[dict[str, bytes], Recovery]:
    """The tensors that a recovery replaces in a checkpoint of the original.

    Args:
        recovery: What was fitted.
        model: The dense model that it was fitted on.
        checkpoint: Of the same model.
        block_prefix: What the names of the blocks' tensors begin with; found by itself when None.

    Returns:
        New bytes by tensor name; and the recovery with the weights that are written, both in the
        file's dtype, from which a reload in the model's dtype rounds once more.

    Raises:
        ModelError: If a parameter's values are in no tensor of its block.
    """
    prefix = checkpoint.block_prefix if block_prefix is None else block_prefix
    data: dict[str, bytes] = {}
    weights: dict[str, Tensor] = {}
    for change in recovery.changes:
        number = change.absorber.block
        tensors = tensors_of(checkpoint, prefix, number)
        with model.anatomy.holding(number):
            for name, value in _rewritten(change, model, tensors, data).items():
                weights[f"{model.anatomy.blocks.path}.{number}.{name}"] = value
    add_low_rank(recovery.low_rank, model, checkpoint, prefix, data, weights)
    return data, replace(recovery, weights=weights)


def _rewritten(
    change: Change, model: Model, tensors: Mapping[str, Tensor], data: dict[str, bytes]
) -> dict[str, Tensor]:
    """One block's parameters as a reload gives them; the bytes go into `data`."""
    block = model.anatomy.blocks.modules[change.absorber.block]
    matrix = change.matrix

    def write(value: Tensor, name: str, axis: int) -> Tensor:
        if not value.any():
            return value  # a bias of zeros stays one, and many tensors look like it
        found = find(value, name, tensors)
        if found is None:
            raise ModelError(
                f"block {change.absorber.block}: {name} has its values in no tensor of the "
                "checkpoint, so its recovery cannot be written; prune without --recover"
            )
        old = tensors[found.name]
        new = folded(old.mT if found.turned else old, matrix, axis)
        data[found.name] = as_stored(new, found)
        return new

    values = {}
    for weight in change.absorber.weights:
        value = block.get_parameter(weight.name).data.cpu()
        whole = not value.any() or find(value, weight.name, tensors) is not None
        if weight.axis > 0 and not whole:
            experts = [write(expert, weight.name, weight.axis - 1) for expert in value]
            values[weight.name] = torch.stack(experts)
        else:
            values[weight.name] = write(value, weight.name, weight.axis)
    return values
