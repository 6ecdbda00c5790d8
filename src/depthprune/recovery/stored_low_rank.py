"""What training added, written into a checkpoint's tensors.

It goes onto what the linear recovery has already put there, in the file's dtype, and what a reload
gives in the model's dtype is what parity compares.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.checkpoint import Checkpoint
from depthprune.models.loading import Model
from depthprune.recovery.low_rank import LowRank
from depthprune.recovery.tensors import as_stored, find, tensors_of


def add_low_rank(
    changes: Mapping[str, LowRank],
    model: Model,
    checkpoint: Checkpoint,
    prefix: str,
    data: dict[str, bytes],
    weights: dict[str, Tensor],
) -> None:
    """Write changes into the bytes of a checkpoint's tensors.

    Args:
        changes: By the names of the parameters in the model.
        model: The dense model.
        checkpoint: Of the same model.
        prefix: What the names of the blocks' tensors begin with.
        data: New bytes by tensor name: those of the linear recovery, replaced and added to.
        weights: The parameters as a reload gives them, likewise.

    Raises:
        ModelError: If a parameter's values are in no tensor of its block.
    """
    path = model.anatomy.blocks.path
    by_block: dict[int, list[str]] = {}
    for name in changes:
        by_block.setdefault(int(name[len(path) + 1 :].partition(".")[0]), []).append(name)
    for block, names in by_block.items():
        tensors = tensors_of(checkpoint, prefix, block)
        for name in names:
            value = model.module.get_parameter(name).data.cpu()
            inner = name[len(f"{path}.{block}.") :]
            found = find(value, inner, tensors) if value.any() else None
            if found is None:
                raise ModelError(
                    f"block {block}: {inner} has its values in no tensor of the checkpoint, so "
                    "what was trained cannot be written; prune without --recover"
                )
            old = tensors[found.name]
            if found.name in data:
                old = _read(data[found.name], old)
            new = changes[name].added_to(old.mT if found.turned else old)
            data[found.name] = as_stored(new, found)
            weights[name] = new.to(value.dtype)


def _read(raw: bytes, like: Tensor) -> Tensor:
    """A tensor from its bytes, of the shape and dtype of another."""
    return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape)
