"""Packed files, read as streams and never unpacked to disk.

What is packed (gzip, bzip2, xz, Zstandard) is known by its first bytes, and how far it may unpack
is bounded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

from depthprune.errors import CalibrationError, first_line
from depthprune.extras import require_extra

_CHUNK = 2**20

_BOMB = 250
_BOMB_FROM = 64 * 2**20
"""A file that unpacks to more than this many bytes, and this many times its size, is no text."""


class _Reading(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def unpacked(file: BinaryIO, target: str) -> Iterator[bytes]:
    """An open file's bytes, unpacked where it is packed, in pieces.

    Args:
        file: Read from where it stands.
        target: Names it in messages.

    Raises:
        CalibrationError: If it cannot be unpacked, or unpacks beyond all measure.
    """
    head = file.peek(8)[:8] if isinstance(file, io.BufferedReader) else b""
    unpacker = _unpacker(head, target)
    if unpacker is None:
        while piece := file.read(_CHUNK):
            yield piece
        return
    try:
        size, total = os.fstat(file.fileno()).st_size, 0
    except (OSError, io.UnsupportedOperation):
        size, total = _BOMB_FROM, 0
    stream = unpacker(file)
    while piece := _read(stream, target):
        total += len(piece)
        refuse_bomb(target, size, total)
        yield piece


def refuse_bomb(target: str, size: int, total: int) -> None:
    """Refuse what unpacks beyond all measure.

    Args:
        target: Names it in messages.
        size: Its bytes.
        total: Bytes that it unpacked to so far.

    Raises:
        CalibrationError: If that is no text.
    """
    if total > max(_BOMB_FROM, _BOMB * size):
        raise CalibrationError(
            f"{target}: {size:,} bytes unpack to more than {total:,}, which is no text; "
            "unpack it yourself if it is"
        )


def _read(stream: _Reading, target: str) -> bytes:
    try:
        return stream.read(_CHUNK)
    except CalibrationError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"{target}: cannot be unpacked ({first_line(error)}); it is damaged or cut off"
        ) from error


def _unpacker(head: bytes, target: str) -> Callable[[BinaryIO], _Reading] | None:
    """How what begins like this is unpacked; None where it is not packed."""
    if head.startswith(b"\x1f\x8b"):
        import gzip

        return lambda file: gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh") and head[4:8] == b"1AY&":
        import bz2

        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\x00"):
        import lzma

        return lzma.LZMAFile
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstandard(target)
    if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!")):
        raise CalibrationError(
            f"{target}: an archive of files; unpack it and name the file or the folder"
        )
    return None


def _zstandard(target: str) -> Callable[[BinaryIO], _Reading]:
    """Python's own reader where there is one, else that of a package."""
    from importlib import import_module

    for name in ("compression.zstd", "zstandard"):
        try:
            module: Any = import_module(name)
        except ImportError:
            continue
        return lambda file: module.open(file, "rb")
    (pyarrow,) = require_extra(f"{target} (Zstandard)", "data", "pyarrow", error=CalibrationError)
    return lambda file: pyarrow.CompressedInputStream(file, "zstd")
