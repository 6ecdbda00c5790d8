"""Composing a safetensors file from byte ranges of others, in constant memory.

A tensor may come with new bytes of its own; those are written as they are.

`os.copy_file_range` moves bytes inside the kernel (and shares them outright on file systems with
reflinks). Where a kernel, a container or a pair of file systems refuses it, a bounded buffer does
the same work. Tensors that were neighbours in their source are copied as one run: what costs is
the number of calls, not the number of tensors.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path

from depthprune.errors import CheckpointError
from depthprune.models.safetensors_file import Piece, layout

_BUFFER = 4 << 20
"""Bytes; large enough that system calls cost nothing, small enough to forget about."""

_STRIDE = 64 << 20
"""Bytes asked of the kernel at a time, so that progress and Ctrl-C come through."""

_REFUSALS = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EPERM}
)
"""What the kernel answers where it cannot copy these two files itself; a buffer can."""


def _ignore(amount: float) -> None:
    del amount


def write_file(
    path: Path,
    pieces: Iterable[Piece],
    metadata: Mapping[str, str],
    advance: Callable[[float], None] = _ignore,
) -> int:
    """Write a safetensors file out of tensors of other files.

    Args:
        path: The new file; it must not exist.
        pieces: Its tensors, in the order wanted.
        metadata: Its `__metadata__`.
        advance: Called with the number of bytes copied since the last call.

    Returns:
        Bytes of the new file.

    Raises:
        CheckpointError: If a source ends before the range that its header promised.
        OSError: If the file cannot be written (a full disk).
    """
    ordered, head = layout(pieces, metadata)
    with open(path, "xb", buffering=0) as target, contextlib.ExitStack() as stack:
        _write_all(target, memoryview(head))
        sources: dict[Path, FileIO] = {}
        for run in _runs(ordered):
            if isinstance(run, bytes):
                _write_all(target, memoryview(run))
                advance(len(run))
                continue
            source, begin, end = run
            if source not in sources:
                sources[source] = stack.enter_context(open(source, "rb", buffering=0))
            _copy(sources[source], target, begin, end, advance)
        return target.tell()


def _runs(pieces: Iterable[Piece]) -> list[tuple[Path, int, int] | bytes]:
    runs: list[tuple[Path, int, int] | bytes] = []
    for piece in pieces:
        begin, end = piece.tensor.begin, piece.tensor.end
        last = runs[-1] if runs else b""
        if piece.data is not None:
            runs.append(piece.data)
        elif begin == end:
            continue
        elif not isinstance(last, bytes) and last[0] == piece.source and last[2] == begin:
            runs[-1] = (piece.source, last[1], end)
        else:
            runs.append((piece.source, begin, end))
    return runs


def _copy(
    source: FileIO, target: FileIO, begin: int, end: int, advance: Callable[[float], None]
) -> None:
    if hasattr(os, "copy_file_range"):
        begin = _copy_in_kernel(source, target, begin, end, advance)
    if begin < end:
        _copy_through_buffer(source, target, begin, end, advance)


def _copy_in_kernel(
    source: FileIO, target: FileIO, begin: int, end: int, advance: Callable[[float], None]
) -> int:
    """Copy as much as the kernel will, and say where it stopped."""
    while begin < end:
        try:
            copied = os.copy_file_range(
                source.fileno(), target.fileno(), min(end - begin, _STRIDE), offset_src=begin
            )
        except OSError as error:
            if error.errno in _REFUSALS:
                return begin
            raise
        # Nothing copied means the end of the file, or a file system that only pretends to
        # support the call; reading tells the two apart.
        if copied == 0:
            return begin
        begin += copied
        advance(copied)
    return begin


def _copy_through_buffer(
    source: FileIO, target: FileIO, begin: int, end: int, advance: Callable[[float], None]
) -> None:
    buffer = memoryview(bytearray(min(_BUFFER, end - begin)))
    source.seek(begin)
    while begin < end:
        read = source.readinto(buffer[: min(len(buffer), end - begin)])
        if not read:
            raise CheckpointError(
                f"{source.name}: ended at byte {begin} while it was copied, expected {end}; "
                "leave the checkpoint alone while it is read"
            )
        _write_all(target, buffer[:read])
        begin += read
        advance(read)


def _write_all(target: FileIO, data: memoryview) -> None:
    while data:
        written = target.write(data)
        data = data[written:]
