"""Which tensors each new weight file holds.

Each old shard becomes a new one, without the removed blocks' tensors and under new numbers; one
that would be empty vanishes. `shard_files` writes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.checkpoint import (
    Checkpoint,
    split_name,
)
from depthprune.checkpoints.config.cut import row_of
from depthprune.checkpoints.packed_tensors import cut_packed
from depthprune.checkpoints.safetensors import (
    Piece,
    SafetensorsFile,
    Tensor,
)
from depthprune.errors import CheckpointError, ModelError
from depthprune.untrusted import parse_json


@dataclass(frozen=True)
class Shard:
    """One new weight file.

    Attributes:
        source: The old file.
        pieces: Its tensors, under their new names.
        metadata: Its `__metadata__`.
    """

    source: SafetensorsFile
    pieces: tuple[Piece, ...]
    metadata: dict[str, str]

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(piece.tensor.nbytes for piece in self.pieces)

    @property
    def names(self) -> Iterator[str]:
        """What its tensors are called, and under what further names they are known."""
        yield from (piece.name for piece in self.pieces)
        here = {piece.name for piece in self.pieces}
        yield from (other for other, name in self.metadata.items() if name in here)

    @property
    def unchanged(self) -> bool:
        """Whether the old file says the same."""
        return (
            self.metadata == self.source.metadata
            and len(self.pieces) == len(self.source.tensors)
            and all(
                p.name == p.tensor.name and p.parts is None and p.data is None for p in self.pieces
            )
        )


@dataclass(frozen=True)
class ShardPlan:
    """All new weight files.

    Attributes:
        shards: In the order of their names; each holds something.
        dropped_extra: How many layers beyond the blocks are left out.
    """

    shards: tuple[Shard, ...]
    dropped_extra: int

    @property
    def pieces(self) -> Iterator[Piece]:
        """Every tensor."""
        return (piece for shard in self.shards for piece in shard.pieces)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def parameters(self) -> int:
        """Elements of all tensors as stored."""
        return sum(piece.tensor.elements for piece in self.pieces)


def plan_shards(
    checkpoint: Checkpoint,
    prefix: str,
    kept: tuple[int, ...],
    data: Mapping[str, bytes] | None = None,
) -> ShardPlan:
    """Decide what each new file holds.

    Args:
        checkpoint: The original.
        prefix: What the names of the blocks' tensors begin with.
        kept: Original numbers of the kept blocks, in order.
        data: New bytes of some tensors, by their names in the original.

    Raises:
        ModelError: If a block has no tensor, or lacks one that would be computed from its number.
    """
    row = row_of(checkpoint.config)
    _check_stored(checkpoint, row)
    names = _Names(prefix, kept, checkpoint.blocks, row, data or {})
    everything = frozenset(checkpoint.tensors)
    shards = [_plan_shard(shard, names, everything) for shard in checkpoint.shards]
    _check_names(checkpoint, prefix, shards)
    missing = set(range(checkpoint.blocks)) - names.seen
    if missing:
        raise ModelError(
            f"{checkpoint.folder}: expected {checkpoint.blocks} blocks named {prefix}*, block "
            f"{min(missing)} has no tensor; check the number of blocks in config.json"
        )
    return ShardPlan(tuple(shard for shard in shards if shard.pieces), len(names.extra))


def _check_stored(checkpoint: Checkpoint, row: Architecture | None) -> None:
    for stored in row.stored if row is not None else ():
        if not any(name.endswith(f".{stored}") for name in checkpoint.tensors):
            raise ModelError(
                f"{checkpoint.folder}: expected tensors {stored}, found none, and transformers "
                "would compute them from each block's new number; load the model in transformers "
                "and save it again"
            )


def _check_names(checkpoint: Checkpoint, prefix: str, shards: Sequence[Shard]) -> None:
    """Refuse names that would be one after renumbering, or that no reader takes for a block's."""
    for name in checkpoint.tensors:
        number = name.removeprefix(prefix).partition(".")[0] if name.startswith(prefix) else ""
        if number.isnumeric() and (not number.isascii() or number != str(_number(number))):
            raise CheckpointError(
                f"{checkpoint.folder}: {name} writes the block's number as {number:.40}; expected "
                "it without leading zeros; rename the tensor"
            )
    counts = Counter(name for shard in shards for name in shard.names)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise CheckpointError(
            f"{checkpoint.folder}: two of its tensors would both be called {twice}; the checkpoint "
            "is damaged, download it again"
        )


def _number(digits: str) -> int:
    return int(digits) if len(digits) < 10 else -1


class _Names:
    """New names of tensors, and which blocks were seen among the old ones."""

    def __init__(
        self,
        prefix: str,
        kept: tuple[int, ...],
        blocks: int,
        row: Architecture | None,
        data: Mapping[str, bytes],
    ) -> None:
        self.data = data
        self.prefix = prefix
        self.kept = kept
        self.row = row
        self.blocks = blocks
        self.new_number = {block: new for new, block in enumerate(kept)}
        self.seen: set[int] = set()
        self.extra: set[int] = set()

    def new(self, name: str) -> str | None:
        parts = split_name(name)
        if parts is None or parts[0] != self.prefix:
            return name
        _, number, rest = parts
        self.seen.add(number)
        if number >= self.blocks:
            self.extra.add(number)
        new = self.new_number.get(number)
        return None if new is None else f"{self.prefix}{new}{rest}"

    def within(self, text: str) -> str:
        """A text of a file's metadata, which torchao fills with JSON about tensors by name."""
        if self.prefix not in text or not text.lstrip().startswith(("[", "{", '"')):
            return text
        try:
            found = parse_json(text, "metadata")
        except CheckpointError:
            return text
        changed = self._renamed(found)
        return text if changed == found else json.dumps(changed, ensure_ascii=False)

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, dict):
            new = {self.new(key): self._renamed(item) for key, item in value.items()}
            return {key: item for key, item in new.items() if key is not None}
        if isinstance(value, list):
            gone = [isinstance(item, str) and self.new(item) is None for item in value]
            return [self._renamed(item) for item, lost in zip(value, gone, strict=True) if not lost]
        return (self.new(value) or value) if isinstance(value, str) else value

    def piece(self, name: str, source: Path, tensor: Tensor) -> Piece:
        """A tensor under its new name; one that holds a part for each block loses those removed."""
        parts = split_name(tensor.name)
        if parts is not None and parts[0] == self.prefix:
            return Piece(name, source, tensor, data=self.data.get(tensor.name))
        cut = cut_packed(source, tensor, self.kept, self.blocks, self.row)
        whole = cut.parts is None
        return replace(cut, name=name, data=self.data.get(tensor.name) if whole else None)


def _plan_shard(shard: SafetensorsFile, names: _Names, everything: frozenset[str]) -> Shard:
    """One file, whose metadata may say which further names its tensors have.

    safetensors stores tensors that share memory once, and the other names as `other: stored`. If
    the stored name goes with its block, the tensor goes on under the first of the others. (The
    metadata itself has no order that means anything.)
    """
    new_name = {tensor.name: names.new(tensor.name) for tensor in shard.tensors}
    aliases = {
        other: stored
        for other, stored in shard.metadata.items()
        if stored in new_name and other not in everything
    }
    metadata = {
        new: names.within(value)
        for key, value in shard.metadata.items()
        if key not in aliases and (new := names.new(key)) is not None
    }
    for other in sorted(aliases, key=_by_number):
        stored = aliases[other]
        new = names.new(other)
        if new is None:
            continue
        if new_name[stored] is None:
            new_name[stored] = new
        else:
            metadata[new] = str(new_name[stored])
    pieces = (
        names.piece(name, shard.path, tensor)
        for tensor in shard.tensors
        if (name := new_name[tensor.name]) is not None
    )
    return Shard(shard, tuple(pieces), metadata)


def _by_number(name: str) -> tuple[str, int, str]:
    return split_name(name) or (name, 0, "")
