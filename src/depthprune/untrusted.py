"""Reading what somebody else made: one way to open a file, to read JSON and to read YAML.

A model's folder, a plan or a spec may come from anywhere. A name in it may be a pipe that never
ends, a device, or a link that leads elsewhere; its text may nest, count or repeat itself beyond
what any reader can hold. So files are opened and parsed here alone, within bounds that no honest
file meets, and whatever goes wrong becomes one line that names the file.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from depthprune.errors import CheckpointError, DepthpruneError, first_line
from depthprune.plain_yaml import DIGITS, PlainLoader

LARGEST = 64 << 20
"""Bytes of a text that is read as a whole; the largest index of a model is a fifth of it."""

LARGEST_YAML = 4 << 20
"""YAML is read a thousand times slower than JSON, and a plan is written by hand."""

_DEPTH = 200
"""Lists within lists. Python gives up at about a thousand, transformers earlier."""

_BLOBS = re.compile(r"(models|datasets|spaces)--.")
"""What the folders of a hub's cache are called, whose snapshots are links to blobs."""


def open_file(
    path: Path,
    *,
    within: Path | None = None,
    error: type[DepthpruneError] = CheckpointError,
) -> FileIO:
    """Open a regular file to read its bytes, unbuffered; never wait for one.

    Args:
        path: The file. A symbolic link is followed.
        within: The folder that it must lie in once links are followed, but for a hub cache's own
            blobs; anywhere when None.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if it is missing, cannot be read, is a pipe or a device, or
            leads out of the folder.
    """
    try:
        if within is not None:
            check_inside(path, within, error=error)
        _check_regular(path, path.stat().st_mode, error)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
        try:
            # The name may have changed hands since; what was opened has not.
            _check_regular(path, os.fstat(handle).st_mode, error)
            if hasattr(os, "set_blocking"):
                os.set_blocking(handle, True)
            return FileIO(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except (OSError, ValueError, RuntimeError) as cause:
        raise error(f"{shown_path(path)}: cannot be read ({_reason(cause)})") from cause


def _check_regular(path: Path, mode: int, error: type[DepthpruneError]) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    found = kinds.get(stat.S_IFMT(mode), "something else")
    raise error(f"{shown_path(path)}: expected a file, found {found}; put the file in its place")


def check_inside(
    path: Path, folder: Path, *, error: type[DepthpruneError] = CheckpointError
) -> None:
    """Refuse a path that leads out of a folder, unless to a blob of a hub's cache.

    Args:
        path: Something in the folder, by its name there.
        folder: The folder; it may be a link itself.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if it leads elsewhere, to nothing, or round in circles.
    """
    try:
        real = path.resolve(strict=True)
        root = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as cause:
        broken = isinstance(cause, FileNotFoundError) and path.is_symlink()
        why = "a link to a missing file" if broken else f"cannot be read ({_reason(cause)})"
        raise error(f"{shown_path(path)}: {why}; download it again") from cause
    if real.is_relative_to(root) or _is_blob(real):
        return
    raise error(
        f"{shown_path(path)}: a link that leads out of the folder, to {shown_path(real)}, and is "
        "not followed; copy the file into the folder"
    )


def check_name_is_text(path: Path) -> None:
    """Refuse a file or folder whose name is not UTF-8, which no manifest could record.

    Raises:
        CheckpointError: If it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as cause:
        raise CheckpointError(f"{str(path)!r:.400}: its name is not UTF-8; rename it") from cause


def _is_blob(real: Path) -> bool:
    return real.parent.name == "blobs" and bool(_BLOBS.match(real.parent.parent.name))


def read_bytes(
    path: Path,
    *,
    within: Path | None = None,
    error: type[DepthpruneError] = CheckpointError,
    most: int = LARGEST,
) -> bytes:
    """All bytes of a file of bounded size. See `open_file`."""
    with open_file(path, within=within, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise error(
                f"{shown_path(path)}: has {size:,} bytes, expected at most {most:,}; is this the "
                "right file?"
            )
        parts = []
        left = most
        try:
            while left > 0 and (part := file.read(min(left, 1 << 24))):
                parts.append(part)
                left -= len(part)
        except OSError as cause:
            raise error(f"{shown_path(path)}: cannot be read ({_reason(cause)})") from cause
    return b"".join(parts)


def read_text(
    path: Path,
    *,
    within: Path | None = None,
    error: type[DepthpruneError] = CheckpointError,
    most: int = LARGEST,
) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. See `open_file`."""
    return decoded(read_bytes(path, within=within, error=error, most=most), str(path), error)


def decoded(raw: bytes, where: str, error: type[DepthpruneError] = CheckpointError) -> str:
    """The text of bytes in UTF-8, with or without a byte order mark.

    Args:
        raw: The bytes.
        where: Their name, for messages.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if they are not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(
            f"{where}: not UTF-8 (byte {cause.start} is 0x{raw[cause.start]:02x}); convert "
            "or download it again"
        ) from cause


def read_untrusted(
    path: Path,
    *,
    within: Path | None = None,
    error: type[DepthpruneError] = CheckpointError,
) -> Any:
    """What a file of JSON, or of YAML by its name, says; every failure is one line.

    Args:
        path: A file; `.yaml` and `.yml` are YAML, everything else is JSON.
        within: See `open_file`.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if it cannot be read, is neither, or goes beyond what any
            honest file holds: see `parse_json` and `parse_yaml`.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        text = read_text(path, within=within, error=error, most=LARGEST_YAML)
        return parse_yaml(text, str(path), error=error)
    return parse_json(read_bytes(path, within=within, error=error), str(path), error=error)


def parse_json(
    text: str | bytes, where: str, *, error: type[DepthpruneError] = CheckpointError
) -> Any:
    """What a JSON document says.

    Args:
        text: The document.
        where: Its name, for messages.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if it is no JSON, gives a key twice, nests too deep, or has
            a number of too many digits. NaN and infinities are read, since transformers writes
            them; half a surrogate pair is too, since JSON can say it.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"{twice:.80} is given twice")
        return found

    def whole(digits: str) -> int:
        if len(digits) > DIGITS:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    try:
        written = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        found = json.loads(written, object_pairs_hook=once, parse_int=whole)
    except (ValueError, RecursionError, MemoryError) as cause:
        raise error(f"{where}: not JSON ({_reason(cause)}); mend or replace it") from cause
    if _depth(found) > _DEPTH:
        raise error(f"{where}: nests over {_DEPTH} deep; mend or replace it")
    return found


def _depth(value: Any) -> int:
    """How deep lists and objects nest; without recursion, since that is what it guards."""
    depth, level = 0, [value]
    while level and depth <= _DEPTH:
        level = [item for outer in level for item in _items(outer)]
        level = [item for item in level if isinstance(item, (dict, list))]
        depth += 1
    return depth


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def parse_yaml(text: str, where: str, *, error: type[DepthpruneError] = CheckpointError) -> Any:
    """What a YAML document says: words, numbers, truths, nothing, lists and mappings.

    Args:
        text: The document.
        where: Its name, for messages.
        error: The kind of error to raise.

    Raises:
        DepthpruneError: Of that kind, if it is no YAML, gives a key twice, asks for a type by a
            tag, or is too large or too deep once its aliases are written out.
    """
    if len(text) > LARGEST_YAML:
        raise error(f"{where}: has over {LARGEST_YAML:,} characters; split it")
    try:
        loader = PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as cause:
        raise error(f"{where}: not YAML ({_reason(cause)}); mend it") from cause


_brief = Repr()
_brief.maxlevel, _brief.maxdict, _brief.maxlist, _brief.maxtuple = 3, 6, 6, 6
_brief.maxstring, _brief.maxother, _brief.maxlong = 120, 120, 60


def shown(value: Any, most: int = 120) -> str:
    """A value as it may stand in a message: its `repr`, never more than a line of it.

    Args:
        value: Anything that was read; its size and depth do not matter.
        most: Characters.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of about {math.ceil(value.bit_length() * 0.30103)} digits"
    text = _brief.repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown_path(path: Path) -> str:
    """A path as it may stand in a message: its end, where it is very long."""
    text = str(path)
    return text if len(text) <= 400 else f"…{text[-399:]}"


def _reason(cause: BaseException) -> str:
    if isinstance(cause, RecursionError):
        return "it nests too deep"
    if isinstance(cause, MemoryError):
        return "it is too large"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem and cause.problem_mark:
        return f"line {cause.problem_mark.line + 1}: {first_line(ValueError(cause.problem))}"
    return first_line(cause)
