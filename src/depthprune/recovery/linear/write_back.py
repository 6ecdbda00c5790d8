"""From a model's parameters to a checkpoint's tensors: what surgery is to write.

A parameter may stand in a file under another name, turned round, or with each expert apart, as
transformers lays out a model when it loads it. So tensors are found by what they hold: the one of
the block that equals the parameter (or its slice) in the model's dtype. The change is then written
into the file's own values, in the file's dtype, and what a reload gives is what parity compares.

What refitting and training added goes onto what a map has already put there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from safetensors import safe_open
from torch import Tensor

from depthprune.checkpoints.checkpoint import Checkpoint, split_name
from depthprune.checkpoints.safetensors import Tensor as Stored
from depthprune.errors import ModelError
from depthprune.models.loading import Model
from depthprune.recovery.delta import Delta, LowRank, Scaled
from depthprune.recovery.linear.fold import folded
from depthprune.recovery.parameters import holders
from depthprune.recovery.result import Change, Recovery


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
        number = change.target.block
        tensors = tensors_of(checkpoint, prefix, number)
        with model.anatomy.holding(number):
            for name, value in _rewritten(change, model, tensors, data).items():
                weights[f"{model.anatomy.blocks.path}.{number}.{name}"] = value
    add_changes(recovery.deltas, model, checkpoint, prefix, data, weights)
    add_changes(recovery.low_rank, model, checkpoint, prefix, data, weights)
    return data, replace(recovery, weights=weights)


def unwritten(model: Model, block: int, names: Collection[str]) -> set[str]:
    """Those of a block's parameters whose values are in no tensor of the model's own checkpoint.

    Transformers joins and divides some tensors as it loads them. One that stands there under its
    own name is not read; where the checkpoint is yet to be made of the model, all are in it.

    Args:
        model: The dense model; the block's weights must be in memory.
        block: Original number.
        names: Of parameters of the block.
    """
    checkpoint = model.source.checkpoint
    if checkpoint is None or not checkpoint.shards:
        return set()
    values = {name: model.anatomy.blocks.modules[block].get_parameter(name) for name in names}
    stored = checkpoint.tensors
    others = [
        name
        for name, value in values.items()
        if (own := stored.get(f"{checkpoint.block_prefix}{block}.{name}")) is None
        or tuple(own.shape) != tuple(value.shape)
    ]
    if not others:
        return set()
    tensors = tensors_of(checkpoint, checkpoint.block_prefix, block)
    return {name for name in others if find(values[name].data.cpu(), name, tensors) is None}


def unwritten_outside(model: Model, names: Collection[str]) -> set[str]:
    """The same of parameters that are in no block.

    Args:
        model: The dense model.
        names: Of the parameters, in the model.
    """
    checkpoint = model.source.checkpoint
    if checkpoint is None or not checkpoint.shards:
        return set()
    return {n for n in names if not _holding(n, model, checkpoint, checkpoint.block_prefix)}


def _rewritten(
    change: Change, model: Model, tensors: Mapping[str, Tensor], data: dict[str, bytes]
) -> dict[str, Tensor]:
    """One block's parameters as a reload gives them; the bytes go into `data`."""
    block = model.anatomy.blocks.modules[change.target.block]

    def write(value: Tensor, name: str, axis: int, whole: Tensor | None = None) -> Tensor:
        if not value.any():
            return value  # a bias of zeros stays one, and many tensors look like it
        own = find(value, name, tensors)
        places = [own] if own else _of_alike(value, whole, tensors)
        if not places:
            raise ModelError(
                f"block {change.target.block}: {name} has its values in no tensor of the "
                "checkpoint, so its recovery cannot be written; prune without --recover"
            )
        for found in places:
            old = tensors[found.name]
            new = folded(old.mT if found.turned else old, change.matrix, axis)
            data[found.name] = as_stored(new, found)
        return new

    values = {}
    for weight in change.target.weights:
        value = block.get_parameter(weight.name).data.cpu()
        whole = not value.any() or find(value, weight.name, tensors) is not None
        if weight.axis > 0 and not whole:
            experts = [write(expert, weight.name, weight.axis - 1, value) for expert in value]
            values[weight.name] = torch.stack(experts)
        else:
            values[weight.name] = write(value, weight.name, weight.axis)
    return values


def add_changes(
    changes: Mapping[str, Delta | Scaled] | Mapping[str, LowRank],
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
        data: New bytes by tensor name: those of the maps, replaced and added to.
        weights: The parameters as a reload gives them, likewise.

    Raises:
        ModelError: If a parameter's values are in no tensor of its block.
    """
    path = model.anatomy.blocks.path
    by_block: dict[int, list[str]] = {}
    for name in changes:
        if not name.startswith(f"{path}."):
            _write_outer(name, changes[name], model, checkpoint, prefix, data, weights)
            continue
        by_block.setdefault(int(name[len(path) + 1 :].partition(".")[0]), []).append(name)
    for block, names in by_block.items():
        tensors = tensors_of(checkpoint, prefix, block)
        with model.anatomy.holding(block):
            for name in names:
                value = model.module.get_parameter(name).data.cpu()
                inner = name[len(f"{path}.{block}.") :]
                found = find(value, inner, tensors)
                if found is None and not (value.any() or changes[name].added_to(value).any()):
                    weights[name] = value  # zeros stay zeros
                    continue
                if found is None:
                    raise ModelError(
                        f"block {block}: {inner} has its values in no tensor of the checkpoint, "
                        "so what was fitted cannot be written; prune without --recover"
                    )
                old = tensors[found.name]
                if found.name in data:
                    old = _read(data[found.name], old)
                new = changes[name].added_to(old.mT if found.turned else old)
                data[found.name] = as_stored(new, found)
                weights[name] = new.to(value.dtype)


def _write_outer(
    name: str,
    change: Delta | Scaled | LowRank,
    model: Model,
    checkpoint: Checkpoint,
    prefix: str,
    data: dict[str, bytes],
    weights: dict[str, Tensor],
) -> None:
    """Write a change of a parameter that is in no block, wherever a file holds its values."""
    value = model.module.get_parameter(name).data.cpu()
    if not (value.any() or change.added_to(value).any()):
        weights[name] = value  # zeros stay zeros
        return
    holding = _holding(name, model, checkpoint, prefix)
    if not holding:
        raise ModelError(
            f"{name} has its values in no tensor of the checkpoint, so what recovers cannot be "
            "written; prune without --recover"
        )
    for other, tensor in holding.items():
        new = change.added_to(tensor)
        data[other] = as_stored(new, Found(other, turned=False))
        weights[name] = new.to(value.dtype)


def _holding(name: str, model: Model, checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The tensors outside of blocks that hold a parameter's values; none where it is not clear."""
    parameter = model.module.get_parameter(name)
    value = parameter.data.cpu()
    tensors = tensors_outside(checkpoint, prefix, tuple(value.shape))
    holding = {other: tensor for other, tensor in tensors.items() if _same(value, tensor)}
    if len(holding) < 2 or (value.dim() > 1 and holders(model.module)[id(parameter)] > 1):
        # A head that shares the embeddings' weights may stand in the file besides.
        return holding
    # One that only began as a copy of them is another tensor.
    if name in holding:
        return {name: holding[name]}
    inner, last = name.rpartition(".")[0], ".".join(name.split(".")[-2:])
    ends = {o: t for o, t in holding.items() if o.endswith(f"{inner}.weight")}
    if not ends:
        ends = {o: t for o, t in holding.items() if f".{o}".endswith(f".{last}")}
    return ends if len(ends) == 1 else {}


def tensors_outside(
    checkpoint: Checkpoint, prefix: str, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """The floating tensors of one shape that are in no block."""

    def wanted(stored: Stored) -> bool:
        parts = split_name(stored.name)
        return (parts is None or parts[0] != prefix) and tuple(stored.shape) == shape

    return _floating(checkpoint, wanted)


def _read(raw: bytes, like: Tensor) -> Tensor:
    """A tensor from its bytes, of the shape and dtype of another."""
    return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape)


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
    return _floating(checkpoint, lambda s: (split_name(s.name) or ())[:2] == (prefix, number))


def _floating(checkpoint: Checkpoint, wanted: Callable[[Stored], bool]) -> dict[str, Tensor]:
    found = {}
    for shard in checkpoint.shards:
        with safe_open(shard.path, framework="pt") as file:
            for stored in filter(wanted, shard.tensors):
                value = file.get_tensor(stored.name)
                if value.is_floating_point():
                    found[stored.name] = value
    return found


def find(value: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Found | None:
    """The tensor that holds a parameter's values; the one of its own name where several do.

    Zeros are known by their own name alone.
    """
    found = _alike(value, tensors)
    own = [each for each in found if each.name.endswith(f".{name}") and not each.turned]
    if own:
        return own[0]
    return found[0] if len(found) == 1 and value.any() else None


def _alike(value: Tensor, tensors: Mapping[str, Tensor]) -> list[Found]:
    """All tensors that hold some values."""
    return [
        Found(other, turned)
        for other, tensor in tensors.items()
        for turned in ((False, True) if value.dim() > 1 else (False,))
        if tensor.dim() == value.dim() and _same(value, tensor.mT if turned else tensor)
    ]


def _of_alike(expert: Tensor, experts: Tensor | None, tensors: Mapping[str, Tensor]) -> list[Found]:
    """The tensors of all experts with the same values, as copies of one dense MLP have them."""
    if experts is None:
        return []
    found = _alike(expert, tensors)
    return found if len(found) == sum(_same(expert, other) for other in experts) else []


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
