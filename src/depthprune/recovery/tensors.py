"""A checkpoint's tensors, and which of them holds a parameter's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

from depthprune.models.checkpoint import Checkpoint, split_name


@dataclass(frozen=True)
class Found:
    """The tensor that holds a parameter's values.

    Attributes:
        name: Its name in the file.
        turned: Whether its last two axes are exchanged there.
    """

    name: str
    turned: bool


def tensors_of(checkpoint: Checkpoint, prefix: str, number: int) -> dict[str, Tensor]:
    """The floating tensors of one block."""
    found = {}
    for shard in checkpoint.shards:
        with safe_open(shard.path, framework="pt") as file:
            for tensor in shard.tensors:
                parts = split_name(tensor.name)
                if parts is not None and parts[:2] == (prefix, number):
                    value = file.get_tensor(tensor.name)
                    if value.is_floating_point():
                        found[tensor.name] = value
    return found


def find(value: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Found | None:
    """The tensor that holds a parameter's values; the one of its own name where several do."""
    found = [
        Found(other, turned)
        for other, tensor in tensors.items()
        for turned in ((False, True) if value.dim() > 1 else (False,))
        if tensor.dim() == value.dim() and _same(value, tensor.mT if turned else tensor)
    ]
    own = [each for each in found if each.name.endswith(f".{name}") and not each.turned]
    likely = own or found
    return likely[0] if own or len(found) == 1 else None


def as_stored(value: Tensor, found: Found) -> bytes:
    """A parameter's new values as the bytes of the tensor that holds them."""
    kept = (value.mT if found.turned else value).contiguous()
    return kept.view(torch.uint8).numpy().tobytes()


def _same(value: Tensor, tensor: Tensor) -> bool:
    if value.shape != tensor.shape:
        return False
    corner = (..., slice(0, 4))
    return torch.equal(value[corner], tensor[corner].to(value.dtype)) and torch.equal(
        value, tensor.to(value.dtype)
    )
