"""The files that a source reads: which, and how much of them.

A target is a file, a folder, or a pattern such as `data/*.jsonl`; what it names is one source, in
the order of the names. What is packed is read as a stream (`unpacking`). Everything is bounded: a
source's text, a line of it, and the time that a pipe may keep silent. Only files and pipes are
read; `/dev/zero` is neither.
"""

from __future__ import annotations

import codecs
import glob
import io
import itertools
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from depthprune.calibration.reading.unpacking import unpacked
from depthprune.errors import CalibrationError

T = TypeVar("T")

MOST_TEXT = 2**30
"""Bytes of text that are read of one source, unpacked; what lies behind them is left out."""

LONGEST_LINE = 2**28
"""Bytes of the longest line (or JSON list) that is read."""

# Opening a pipe would wait for its other end, forever if need be.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SILENCE = 30.0
"""Seconds that a pipe may give nothing."""

_SUFFIXES = {
    "text": (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "parquet": (".parquet",),
    "choices": (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet"),
}
PACKINGS = ("", ".gz", ".bz2", ".xz", ".zst")
"""Endings of what is packed, and of what is not."""


def files_at(target: str, kind: str) -> list[Path]:
    """The files that a target names, in the order of their names.

    Args:
        target: A file, a folder or a pattern.
        kind: The source's name, which says which of a folder's files are meant.

    Raises:
        CalibrationError: If there is none.
    """
    path = Path(target).expanduser()
    if path.is_dir():
        endings = within(*_SUFFIXES.get(kind, ()))
        found = sorted(
            file
            for file in path.rglob("*")
            if file.name.lower().endswith(endings)
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not found:
            wanted = ", ".join(_SUFFIXES.get(kind, ())) or "such"
            raise CalibrationError(
                f"{target}: the folder holds no {wanted} file; name a file, or a pattern"
            )
        return found
    if glob.has_magic(target) and not path.exists():
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [file for file in found if file.is_file()]
        if not found:
            raise CalibrationError(f"{target}: no file fits the pattern; check the path")
        return found
    return [path]


def within(*endings: str) -> tuple[str, ...]:
    """Endings of files, packed or not."""
    return tuple(ending + packing for ending in endings for packing in PACKINGS)


def named(target: str, file: Path) -> str:
    """A file's name in messages and ids: what the user wrote where that is the file itself."""
    path = Path(target).expanduser()
    return target if path == file else str(file)


def is_there(target: str) -> bool:
    """Whether a target names a file, a folder, or by its pattern at least one."""
    # Unlike a Path's own, these take what can be no name at all for a file that is not there.
    path = os.path.expanduser(target)
    return os.path.exists(path) or bool(glob.has_magic(target) and glob.glob(path, recursive=True))


def source_for(target: str) -> str:
    """The source that reads a file by its ending: text, unless it says otherwise."""
    name = Path(target).name.lower()
    return next((k for k, ends in _SUFFIXES.items() if name.endswith(within(*ends))), "text")


def check_target_files(target: str, kind: str) -> None:
    """Refuse a target whose files are missing or cannot be opened; pipes are left untouched.

    Raises:
        CalibrationError: Naming the first.
    """
    for file in files_at(target, kind):
        if not file.is_fifo():
            opened(str(file)).close()


def opened(target: str) -> BinaryIO:
    """A file or a pipe, open for reading bytes as they lie there.

    Raises:
        CalibrationError: If it is missing, a folder, a device or unreadable.
    """
    path = Path(target).expanduser()
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError as error:
        raise CalibrationError(f"{target}: no such file; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CalibrationError(f"{target}: cannot be read ({reason})") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode):
        return io.BufferedReader(_Pipe(descriptor, target))
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "folder" if stat.S_ISDIR(mode) else "device"
        raise CalibrationError(f"{target}: expected a file, found a {what}")
    return os.fdopen(descriptor, "rb")


class _Pipe(io.RawIOBase):
    """A pipe that is read without waiting forever."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN | select.POLLHUP)
        if not waiting.poll(_SILENCE * 1000):
            raise CalibrationError(
                f"{self._name}: the pipe gave nothing for {_SILENCE:.0f} seconds; start what "
                "writes to it, or name a file"
            )
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def chunks(target: str) -> Iterator[bytes]:
    """A file's bytes, unpacked, in pieces.

    Raises:
        CalibrationError: If it cannot be read or unpacked, or unpacks beyond all measure.
    """
    with opened(target) as file:
        yield from unpacked(file, target)


class Bounded:
    """A source's files, read as text until the bound is met.

    Attributes:
        whole: Whether everything was read; false once something was left out.
    """

    def __init__(self, most: int | None = None) -> None:
        self.whole = True
        self._left = MOST_TEXT if most is None else most

    def pieces(self, target: str) -> Iterator[bytes]:
        """A file's bytes as far as the bound goes."""
        for piece in chunks(target):
            if self._left <= 0:
                self.whole = False
                return
            yield piece[: self._left]
            self.whole = self.whole and len(piece) <= self._left
            self._left -= len(piece)

    def take(self, found: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """What was read in another way, as far as the bound goes.

        Args:
            found: What is read.
            size: Bytes of one.
        """
        for each in found:
            if self._left <= 0:
                self.whole = False
                return
            self._left -= size(each)
            yield each


def text_pieces(target: str, bound: Bounded) -> Iterator[str]:
    """A file's text in pieces, without a byte order mark.

    Raises:
        CalibrationError: If it cannot be read or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    before, first = 0, True
    for piece in itertools.chain(bound.pieces(target), (b"",)):
        held = len(decoder.getstate()[0])
        try:
            # Where the bound cut a letter in two, the half is left out with the rest.
            text = decoder.decode(piece, final=not piece and bound.whole)
        except UnicodeDecodeError as error:
            raise _not_utf8(target, error, before - held) from error
        before += len(piece)
        yield text.removeprefix("\ufeff") if first else text
        first = first and not text


def lines(target: str, bound: Bounded) -> Iterator[str]:
    """A file's lines, each without its end; a line that the bound cuts is left out.

    Raises:
        CalibrationError: If it cannot be read, is not UTF-8, or a line is too long.
    """
    rest: list[str] = []
    size, number = 0, 1
    for piece in text_pieces(target, bound):
        *whole, last = piece.split("\n")
        for line in whole:
            yield "".join([*rest, line])
            rest, size, number = [], 0, number + 1
        rest.append(last)
        size += len(last)
        if size > LONGEST_LINE:
            raise CalibrationError(
                f"{target}:{number}: a line of more than {LONGEST_LINE:,} characters; write one "
                "row a line"
            )
    if bound.whole and size:
        yield "".join(rest)


def whole_text(target: str) -> str:
    """A file's text, all of it, without a byte order mark.

    Raises:
        CalibrationError: If it is missing, unreadable, too large or not UTF-8.
    """
    bound = Bounded(LONGEST_LINE)
    text = "".join(text_pieces(target, bound))
    if not bound.whole:
        raise CalibrationError(f"{target}: larger than {LONGEST_LINE:,} bytes; give a smaller file")
    return text


def _not_utf8(target: str, error: UnicodeDecodeError, before: int) -> CalibrationError:
    data: Sequence[int] = error.object
    return CalibrationError(
        f"{target}: not UTF-8 (byte {before + error.start} is {data[error.start]:#04x}); "
        "convert it, for example with iconv"
    )
