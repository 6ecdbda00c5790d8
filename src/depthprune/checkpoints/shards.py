"""Which tensors each new weight file holds, and writing those files with their index.

Each old shard becomes a new one, without the removed blocks' tensors and under new numbers; one
that would be empty vanishes. Several are copied at a time, which two cores do nearly twice as
fast. A shard in which nothing changes may be shared with the original rather than copied, if the
user allows.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.byte_copy import write_file
from depthprune.checkpoints.checkpoint import (
    INDEX,
    WEIGHTS,
    Checkpoint,
    split_name,
)
from depthprune.checkpoints.config.cut import row_of
from depthprune.checkpoints.packed_tensors import cut_packed
from depthprune.checkpoints.safetensors import (
    Piece,
    SafetensorsFile,
    Tensor,
    read_header,
)
from depthprune.errors import CheckpointError, ModelError
from depthprune.progress import SILENT, Progress, ProgressStep
from depthprune.untrusted import parse_json

_SIDE_BY_SIDE = 4
"""Files copied at once. One copy is bound by one core's speed of moving memory."""

_FICLONE = 0x40049409
"""Linux's request to share one file's blocks with another, copied only when one is written to."""


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
        ModelError: If a block has no tensor.
    """
    names = _Names(prefix, kept, checkpoint.blocks, row_of(checkpoint.config), data or {})
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


def write_shards(
    checkpoint: Checkpoint,
    plan: ShardPlan,
    stage: Path,
    *,
    link: bool = False,
    progress: Progress = SILENT,
) -> tuple[list[str], list[str]]:
    """Write the weight files, and their index if there are several.

    Args:
        checkpoint: The original.
        plan: What each file holds.
        stage: The folder.
        link: Share the files of the original in which nothing changes, and of others what a file
            system with reflinks can.
        progress: Shows the bytes copied.

    Returns:
        The names of what was written, and of those files among them that are hard links.
    """
    total = len(plan.shards)
    names = (
        [WEIGHTS]
        if total == 1
        else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    )
    linked, copied = [], []
    for name, shard in zip(names, plan.shards, strict=True):
        how = share(shard.source.path, stage / name) if link and shard.unchanged else None
        if how is None:
            copied.append((stage / name, shard))
        elif how == "hard link":
            linked.append(name)
    with progress.step("copying weights", sum(shard.bytes for _, shard in copied), "B") as step:
        _copy(copied, step, share=link)
    _read_back(plan, stage, names)
    if total == 1:
        return names, linked
    _write_index(checkpoint, plan, names, stage / INDEX)
    return [*names, INDEX], linked


def _read_back(plan: ShardPlan, stage: Path, names: Sequence[str]) -> None:
    """Read the headers that were written, as the next reader will, before anyone else may."""
    for name, shard in zip(names, plan.shards, strict=True):
        require_read_back(stage / name, shard.pieces, shard.source.path)


def require_read_back(written: Path, pieces: Sequence[Piece], source: Path) -> None:
    """Refuse a file whose header does not say what was to be written.

    Args:
        written: The file.
        pieces: What it is to hold.
        source: What it was cut from, for the message.

    Raises:
        CheckpointError: If it says something else, or cannot be read.
    """
    found = [(t.name, t.dtype, t.shape) for t in read_header(written).tensors]
    meant = [(piece.name, piece.tensor.dtype, piece.tensor.shape) for piece in pieces]
    if len(found) != len(meant) or set(found) != set(meant):
        differ = len(set(found) ^ set(meant)) or abs(len(found) - len(meant))
        raise CheckpointError(
            f"{source}: its cut does not read as it was meant, {differ} tensors differ; nothing "
            "was kept"
        )


class _StoppedError(Exception):
    """Ends a copy beside which another one failed."""


def _copy(files: Sequence[tuple[Path, Shard]], step: ProgressStep, *, share: bool) -> None:
    """Write files side by side; when one fails, or on Ctrl-C, the others stop within a moment."""
    stop, lock = threading.Event(), threading.Lock()
    write = partial(write_file, share=True) if share else write_file

    def advance(amount: float) -> None:
        if stop.is_set():
            raise _StoppedError
        with lock:
            step.advance(amount)

    with ThreadPoolExecutor(min(_SIDE_BY_SIDE, os.cpu_count() or 1)) as pool:
        futures = [
            pool.submit(write, path, shard.pieces, shard.metadata, advance) for path, shard in files
        ]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _write_index(checkpoint: Checkpoint, plan: ShardPlan, names: list[str], path: Path) -> None:
    metadata = dict(checkpoint.index_metadata) | {"total_size": plan.bytes}
    # What counts as a parameter is known only where the original counted elements, as we do.
    if metadata.pop("total_parameters", None) == checkpoint.parameters:
        metadata["total_parameters"] = plan.parameters
    weight_map = {
        piece.name: name
        for name, shard in zip(names, plan.shards, strict=True)
        for piece in shard.pieces
    }
    document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def share(source: Path, target: Path) -> str | None:
    """Make a file that shares its bytes with another: a reflink, else a hard link.

    Args:
        source: The file; a symbolic link is followed.
        target: The new name.

    Returns:
        `"reflink"`, `"hard link"`, or None where the file systems can do neither.
    """
    attempts: tuple[tuple[str, Callable[[Path, Path], None]], ...] = (
        ("reflink", _reflink),
        ("hard link", lambda old, new: os.link(old.resolve(), new)),
    )
    for how, attempt in attempts:
        try:
            attempt(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
        else:
            return how
    return None


def _reflink(source: Path, target: Path) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOTSUP, "no reflinks here") from error
    with open(source, "rb") as old, open(target, "xb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
