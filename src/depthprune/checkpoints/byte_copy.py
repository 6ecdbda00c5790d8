"""Composing a safetensors file from byte ranges of others, in constant memory.

A tensor may come with new bytes of its own; those are written as they are.

`os.copy_file_range` moves bytes inside the kernel, and shares them outright on file systems with
reflinks, if they stand at the same place of a block in both files; a file that is to share what it
can has its tensors in an order, and a header of a length, that make it so. Where a kernel, a
container or a pair of file systems refuses it, a bounded buffer does the same work. Tensors that
were neighbours in their source are copied as one run: what costs is the number of calls, not the
number of tensors.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import TypeAlias

from depthprune.checkpoints.safetensors import (
    Parts,
    Piece,
    layout,
)
from depthprune.checkpoints.shared_blocks import BLOCK, order_to_share
from depthprune.errors import CheckpointError
from depthprune.untrusted import open_file

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
    *,
    share: bool = False,
) -> int:
    """Write a safetensors file out of tensors of other files.

    Args:
        path: The new file; it must not exist.
        pieces: Its tensors, in the order wanted.
        metadata: Its `__metadata__`.
        advance: Called with the number of bytes copied since the last call.
        share: Order its tensors, and pad its header by less than a block, such that it can share
            most of them where the file system can.

    Returns:
        Bytes of the new file.

    Raises:
        CheckpointError: If a source ends before the range that its header promised.
        OSError: If the file cannot be written (a full disk).
    """
    if share:
        ordered, head = layout(order_to_share(pieces), metadata, BLOCK)
    else:
        ordered, head = layout(pieces, metadata)
    with open(path, "xb", buffering=0) as target, contextlib.ExitStack() as stack:
        write_all(target, memoryview(head))
        sources: dict[Path, FileIO] = {}
        for run in _runs(ordered):
            if isinstance(run, bytes):
                write_all(target, memoryview(run))
                advance(len(run))
                continue
            source, begin, end, parts = run
            if source not in sources:
                sources[source] = stack.enter_context(open_file(source))
            if parts is None:
                copy_range(sources[source], target, begin, end, advance)
            else:
                _copy_parts(sources[source], target, begin, parts, advance)
        return target.tell()


_Range: TypeAlias = tuple[Path, int, int, Parts | None]


def _runs(pieces: Iterable[Piece]) -> list[_Range | bytes]:
    runs: list[_Range | bytes] = []
    for piece in pieces:
        begin, end = piece.tensor.begin, piece.tensor.end
        last = runs[-1] if runs else b""
        if piece.data is not None:
            runs.append(piece.data)
        elif begin == end:
            continue
        elif (
            not isinstance(last, bytes)
            and last[3] is piece.parts is None
            and last[0] == piece.source
            and last[2] == begin
        ):
            runs[-1] = (piece.source, last[1], end, None)
        else:
            runs.append((piece.source, begin, end, piece.parts))
    return runs


def copy_range(
    source: FileIO, target: FileIO, begin: int, end: int, advance: Callable[[float], None]
) -> None:
    """Append a range of one unbuffered file to another, in the kernel where it can.

    Args:
        source: Read from.
        target: Written to, at its end.
        begin: First byte.
        end: One past the last byte.
        advance: Called with the number of bytes copied since the last call.

    Raises:
        CheckpointError: If the source ends before the range does.
        OSError: If the target cannot be written (a full disk).
    """
    if hasattr(os, "copy_file_range"):
        if begin % BLOCK and target.tell() % BLOCK == begin % BLOCK:
            # Whole blocks can be shared from the next one on.
            first = min(end, begin + -begin % BLOCK)
            _copy_through_buffer(source, target, begin, first, advance)
            begin = first
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
        write_all(target, buffer[:read])
        begin += read
        advance(read)


def _copy_parts(
    source: FileIO, target: FileIO, begin: int, parts: Parts, advance: Callable[[float], None]
) -> None:
    for wanted in read_parts(source, begin, parts):
        write_all(target, memoryview(wanted))
        advance(len(wanted))


def read_parts(source: FileIO, begin: int, parts: Parts) -> Iterator[bytes]:
    """Some bytes of every row of a tensor, many rows at a time.

    Args:
        source: The file that holds it.
        begin: Its first byte there.
        parts: Which bytes.

    Raises:
        CheckpointError: If the source ends before the last row does.
    """
    source.seek(begin)
    step = max(1, _BUFFER // parts.stride)
    for first in range(0, parts.rows, step):
        rows = min(step, parts.rows - first)
        data = bytearray(rows * parts.stride)
        if _read_all(source, memoryview(data)) < len(data):
            raise CheckpointError(
                f"{source.name}: ended while it was copied; leave the checkpoint alone while it "
                "is read"
            )
        yield b"".join(
            data[row + a : row + b]
            for row in range(0, len(data), parts.stride)
            for a, b in parts.ranges
        )


def _read_all(source: FileIO, data: memoryview) -> int:
    done = 0
    while done < len(data):
        read = source.readinto(data[done:])
        if not read:
            break
        done += read
    return done


def write_all(target: FileIO, data: memoryview) -> None:
    """Write all of the bytes, however few an unbuffered file takes at a time."""
    while data:
        written = target.write(data)
        data = data[written:]
