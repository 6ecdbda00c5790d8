"""Writing the new weight files with their index, and reading them back before anyone else may.

Several are copied at a time, which two cores do nearly twice as fast. A shard in which nothing
changes may be shared with the original rather than copied, if the user allows.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from depthprune.checkpoints.byte_copy import write_file
from depthprune.checkpoints.checkpoint import (
    INDEX,
    WEIGHTS,
    Checkpoint,
)
from depthprune.checkpoints.safetensors import (
    Piece,
    read_header,
)
from depthprune.checkpoints.shards import Shard, ShardPlan
from depthprune.errors import CheckpointError
from depthprune.progress import SILENT, Progress, ProgressStep

_SIDE_BY_SIDE = 4
"""Files copied at once. One copy is bound by one core's speed of moving memory."""

_FICLONE = 0x40049409
"""Linux's request to share one file's blocks with another, copied only when one is written to."""


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
