"""What an output is, where its parts stand, and what may be replaced.

An output is a folder with a manifest that lists what depthprune wrote in it; or a file (a GGUF),
with its manifest and its page beside it under its own name. One rule holds for every writer: a file
that exists is replaced only where the manifest lists it. Files of the user's own stay.
How an output is written, whole or not at all, is `claims`' business.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from depthprune.errors import DepthpruneError, OutputError
from depthprune.staging import hidden_file, output_of, sweep
from depthprune.untrusted import read_untrusted

MANIFEST_NAME = "depthprune.json"
PAGE_NAME = "report.html"

_RUST = re.compile(r"\(os error ([0-9]{1,5})\)$")


def is_gguf(path: Path) -> bool:
    """Whether a path is of a GGUF file, by its name."""
    return path.suffix.lower() == ".gguf"


@dataclass(frozen=True)
class OutputTarget:
    """What `-o` names: a folder, or one file with its manifest and its page beside it.

    Attributes:
        path: The folder or the file.
        is_file: Which of the two.
    """

    path: Path
    is_file: bool

    def __str__(self) -> str:
        return str(self.path)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.path.parent if self.is_file else self.path

    @property
    def manifest(self) -> Path:
        """Its manifest: within a folder; beside `x.gguf`, `x.depthprune.json`."""
        return self._placed(MANIFEST_NAME)

    @property
    def page(self) -> Path:
        """Its page, which stands where the manifest does."""
        return self._placed(PAGE_NAME)

    def is_same(self, other: Path) -> bool:
        """Whether it is what stands at another path; a name that cannot be is nothing."""
        return os.path.exists(self.path) and os.path.samefile(self.path, other)

    def at(self, path: Path) -> OutputTarget:
        """An output of the same kind in another place, such as where it is staged."""
        return replace(self, path=path)

    def _placed(self, name: str) -> Path:
        return self.path.with_suffix(f".{name}") if self.is_file else self.path / name


def as_target(out: str | Path | OutputTarget) -> OutputTarget:
    """What Python or `-o` names an output by; a name ending in `.gguf` is a file's."""
    if isinstance(out, OutputTarget):
        return out
    path = Path(out)
    return OutputTarget(path, is_file=is_gguf(path))


def cache_folder() -> Path:
    """Our folder among the user's caches; it may not exist yet.

    Raises:
        OutputError: If this user has no home folder.
    """
    try:
        if sys.platform == "win32":
            folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Caches"
        else:
            # The XDG specification has a relative path ignored.
            named = Path(os.environ.get("XDG_CACHE_HOME", ""))
            folder = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise OutputError(f"the user's cache folder: {error}; set HOME") from error
    return folder / "depthprune"


def check_target(target: OutputTarget, *, overwrite: bool) -> None:
    """Refuse an output that must not be written, before any work is done.

    Args:
        target: What is to be written.
        overwrite: Replace an earlier output of depthprune.

    Raises:
        OutputError: If it is of the other kind, if something is there and `overwrite` is False, if
            depthprune did not write what it would have to replace, or if its folder cannot be
            written.
    """
    check_name(target)
    parent = _nearest_folder(target.path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"-o {target}: {parent} cannot be written; choose another path")
    if target.is_file:
        _check_file(target, overwrite=overwrite)
    else:
        _check_folder(target.path, overwrite=overwrite)


def _check_folder(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        what = "a link to nothing" if out.is_symlink() and not out.exists() else "a file"
        raise OutputError(f"-o {out}: expected a folder, found {what}; choose another path")
    if os.path.ismount(out) or out.samefile(Path.cwd()):
        raise OutputError(
            f"-o {out}: a mount point or the current folder cannot be replaced as a whole; name a "
            "folder inside it"
        )
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"-o {out}: the folder exists and is not empty; choose another, or pass --overwrite"
        )
    if not (out / MANIFEST_NAME).is_file():
        raise OutputError(
            f"-o {out}: --overwrite replaces only what depthprune wrote, and the folder holds "
            f"no {MANIFEST_NAME}; choose another folder"
        )
    files_of(out)


def check_name(target: OutputTarget) -> None:
    """Refuse a name that the manifest cannot record or the file system cannot have.

    Raises:
        OutputError: Saying why.
    """
    out = target.path
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"-o {str(out)!r}: is not UTF-8; choose another name") from error
    try:
        for path in (out, target.manifest, target.page) if target.is_file else (out,):
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                path.lstat()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"-o {str(out)[:80]}: {why}; choose another name") from error


def _nearest_folder(out: Path) -> Path:
    parent = out.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"-o {out}: {parent} is a file, not a folder; choose another path")
    return parent


def files_of(out: Path) -> frozenset[str]:
    """The file names that the manifest in `out` says depthprune wrote there.

    Raises:
        OutputError: If the manifest cannot be read.
    """
    return _files_in(out / MANIFEST_NAME, out)


def _files_in(manifest: Path, out: Path) -> frozenset[str]:
    try:
        files = read_untrusted(manifest, error=OutputError)["files"]
        return frozenset([*(str(name) for name in files), manifest.name])
    except (OutputError, KeyError, TypeError) as error:
        raise OutputError(
            f"-o {out}: {manifest.name} lists no files ({error}); choose another path"
        ) from error


def check_space(where: Path, needed: int) -> None:
    """Refuse to start writing `needed` bytes where they cannot fit.

    Raises:
        OutputError: If the file system of `where` has less room.
    """
    free = shutil.disk_usage(_nearest_folder(where)).free
    if free < needed:
        raise OutputError(
            f"-o {output_of(where)}: needs {needed / 1e9:.2f} GB and the disk has "
            f"{free / 1e9:.2f} GB free; free some space, or choose another disk"
        )


def _check_file(target: OutputTarget, *, overwrite: bool) -> None:
    out, manifest = target.path, target.manifest
    if out.is_dir():
        raise OutputError(f"-o {out}: expected a file, found a folder; choose another path")
    there = [path for path in (out, manifest, target.page) if os.path.lexists(path)]
    if not there:
        return
    if not overwrite:
        raise OutputError(f"-o {out}: {there[0].name} exists; choose another, or pass --overwrite")
    ours = _files_in(manifest, out) if manifest.is_file() else frozenset[str]()
    for path in there:
        if path.name not in ours:
            raise OutputError(
                f"-o {out}: --overwrite replaces only what depthprune wrote, and no "
                f"{manifest.name} names {path.name}; choose another name"
            )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place when the block ends well.

    Raises:
        OutputError: When the disk is full, or the folder cannot be written.
    """
    parent = path.absolute().parent
    with disk_errors(path):
        sweep(parent, path.name, "partial")
        with hidden_file(parent, path.name, "partial") as partial:
            partial.chmod(0o666 & ~user_mask())
            yield partial
            os.replace(partial, path)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn what a system says of a full disk or a refused place into an `OutputError`."""
    try:
        yield
    except DepthpruneError:
        raise
    except Exception as error:
        number = _number_of(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"-o {out}: the disk is full ({os.strerror(number)}); free some space and run again"
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OutputError(
                f"-o {out}: cannot be written ({os.strerror(number)}); choose another path"
            ) from error
        raise


def _number_of(error: Exception) -> int | None:
    """The system's number of an error; packages written in Rust have it in their words alone."""
    if isinstance(error, OSError):
        return error.errno
    said = _RUST.search(str(error))
    return int(said[1]) if said else None


def user_mask() -> int:
    """The permissions that this user's new files lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
