"""Hidden folders and files beside an output, each held by the process that made it.

A hidden name carries what it is for and the process's number, such as `.OUT.partial-4711-x1y2`, and
is locked (`flock`) for as long as that process lives, however it ends. So who comes next can tell
what is being written, which is left alone, from what a kill left behind, which is swept away.
A lock is on the file system's own object and follows it through renames. Where there are no such
locks (Windows, some network file systems) nothing is refused and nothing is swept.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from depthprune.errors import OutputError

if sys.platform != "win32":
    import fcntl

_LONGEST = 150
_HIDDEN = re.compile(r"\.(.+)\.[a-z]+-[0-9]+-[0-9a-f]{8}")


class LockedError(Exception):
    """Another process holds what was to be locked."""


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder; whether this system has such locks.

    Raises:
        LockedError: If another process, or this one, holds it already.
    """
    handle = _lock(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock until it is closed; None where there are no locks.

    Raises:
        LockedError: If it is held already.
    """
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LockedError from None
    except OSError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def stem(name: str) -> str:
    """The beginning of an output's hidden names, short enough for what follows it."""
    if len(os.fsencode(name)) <= _LONGEST:
        return f".{name}"
    return f".{name[:30]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def hidden_names(parent: Path, name: str, kind: str) -> list[Path]:
    """The hidden names of one kind that stand beside an output."""
    wanted = re.compile(re.escape(f"{stem(name)}.{kind}-") + r"[0-9]+-[0-9a-f]{8}")
    try:
        return sorted(path for path in parent.iterdir() if wanted.fullmatch(path.name))
    except OSError:
        return []


def output_of(place: Path) -> Path:
    """The output that a place is for: one that is hidden, or lies in what is; else itself."""
    for path in (place, place.parent):
        if found := _HIDDEN.fullmatch(path.name):
            return path.with_name(found[1])
    return place


def process_of(hidden: Path) -> str:
    """The number of the process that made a hidden name."""
    return hidden.name.rsplit("-", 2)[1]


@contextmanager
def hidden_folder(parent: Path, name: str, kind: str) -> Iterator[Path]:
    """A fresh hidden folder, locked, and gone afterwards.

    Args:
        parent: Where it is made.
        name: Of the output it is for.
        kind: What it is for, in a word.
    """
    with _hidden(parent, name, kind, lambda path: path.mkdir(mode=0o700)) as path:
        yield path


@contextmanager
def hidden_file(parent: Path, name: str, kind: str) -> Iterator[Path]:
    """A fresh empty hidden file, locked, and gone afterwards; arguments as of `hidden_folder`."""
    with _hidden(parent, name, kind, lambda path: path.touch(mode=0o600, exist_ok=False)) as path:
        yield path


@contextmanager
def _hidden(parent: Path, name: str, kind: str, make: Callable[[Path], None]) -> Iterator[Path]:
    # The name is known before it is made: whatever is raised from then on, it is removed.
    path = parent / f"{stem(name)}.{kind}-{os.getpid()}-{secrets.token_hex(4)}"
    handle = None
    try:
        try:
            make(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            # The parent was there when it was checked: it has gone, or is no place for files.
            raise OutputError(
                f"-o {parent / name}: cannot be written ({error.strerror}); choose another path"
            ) from error
        with suppress(LockedError):
            handle = _lock(path)
        yield path
    finally:
        # It goes before its lock does, so that nobody else finds it without one.
        remove(path)
        if handle is not None:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether a hidden name was left behind by a process that is dead; held while it is looked at.

    Never true where there are no locks, nor of what another user made.
    """
    with ExitStack() as stack:
        try:
            known = stack.enter_context(locked(path))
            # One that lives may not have come to lock yet what it has just made.
            dead = known and _mine(path) and not _lives(int(process_of(path)))
        except (LockedError, OSError):
            dead = False
        yield dead


def _mine(path: Path) -> bool:
    return sys.platform == "win32" or path.lstat().st_uid == os.getuid()


def _lives(process: int) -> bool:
    """Whether a process other than this one lives; in a container the next may have our number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sweep(parent: Path, name: str, kind: str) -> None:
    """Remove what dead processes left behind of one kind beside an output."""
    for path in hidden_names(parent, name, kind):
        with abandoned(path) as dead:
            if dead:
                remove(path)
