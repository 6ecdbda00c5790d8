"""Tensors outside the blocks that hold a part for each: per-layer embeddings and their projection.

A cut takes the kept blocks' parts out of every row, byte by byte; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.safetensors import (
    Parts,
    Piece,
    Tensor,
)
from depthprune.errors import ModelError


def cut_packed(
    source: Path, tensor: Tensor, kept: Sequence[int], blocks: int, row: Architecture | None
) -> Piece:
    """A tensor that belongs to no block, with the kept blocks' parts if it holds one for each.

    Args:
        source: The file that holds it.
        tensor: Its entry there.
        kept: Original numbers of the kept blocks, in order.
        blocks: How many blocks there were.
        row: The row of the model's type, which says what is packed.

    Returns:
        What is to be written.

    Raises:
        ModelError: If it should be packed and is stored in a form that cannot be taken apart.
    """
    for packed in row.packed if row is not None else ():
        stem, _, kind = packed.name.rpartition(".")
        if f"{stem}." not in tensor.name:
            continue
        if not tensor.name.endswith(f"{stem}.{kind}"):
            raise ModelError(
                f"{tensor.name}: expected {packed.name}, which holds a part for every block; in "
                "this form it cannot be taken apart; cut the model before it is quantised"
            )
        return _cut(source, tensor, packed.axis, kept, blocks)
    return Piece(tensor.name, source, tensor)


def _cut(source: Path, tensor: Tensor, axis: int, kept: Sequence[int], blocks: int) -> Piece:
    shape = tensor.shape
    if axis >= len(shape) or shape[axis] % blocks:
        raise ModelError(
            f"{tensor.name}: expected a part for each of {blocks} blocks along axis {axis}, found "
            f"the shape {shape}; check the number of blocks in config.json"
        )
    rows = prod(shape[:axis])
    stride = tensor.nbytes // rows
    part = stride // blocks
    if rows * part * blocks != tensor.nbytes:
        raise ModelError(f"{tensor.name}: its parts are no whole bytes, so it cannot be cut")
    ranges = tuple((block * part, (block + 1) * part) for block in kept)
    size = shape[axis] // blocks * len(kept)
    new = replace(
        tensor,
        shape=(*shape[:axis], size, *shape[axis + 1 :]),
        end=tensor.begin + rows * part * len(kept),
    )
    return Piece(tensor.name, source, new, Parts(rows, stride, ranges))
