"""Renames that a system can do in one step: exchange two names, or take one that nobody has.

Python's own `os.rename` replaces a file without a word and cannot exchange. Linux and macOS can
both, by calls that Python does not wrap. Where the system or the file system cannot, the caller is
told, or the next best is done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step: at no moment is either missing.

    Args:
        first: A file or folder.
        second: Another on the same file system.

    Returns:
        Whether it was done; False where the system cannot, and then nothing was.

    Raises:
        OSError: If one of them cannot be renamed.
    """
    return _call("exchange", first, second)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file to a name that must not exist.

    Raises:
        FileExistsError: If it does.
        OSError: If it cannot be renamed.
    """
    if _call("new", source, target):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _call(what: str, first: Path, second: Path) -> bool:
    call = _system_call()
    if call is None:
        return False
    code = call(os.fsencode(first), os.fsencode(second), what)
    if code in _CANNOT:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(second))
    return True


@cache
def _system_call() -> Callable[[bytes, bytes, str], int] | None:
    """The system's own call, which gives 0 or an error number; None where there is none."""
    if sys.platform == "win32":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        name, folder, flags = "renamex_np", (), {"exchange": 2, "new": 4}
    else:
        name, folder, flags = "renameat2", (_AT_FDCWD,), {"exchange": 2, "new": 1}
    function = getattr(library, name, None)
    if function is None:
        return None

    def call(first: bytes, second: bytes, what: str) -> int:
        if function(*folder, first, *folder, second, ctypes.c_uint(flags[what])):
            return ctypes.get_errno()
        return 0

    return call
