"""Outputs appear whole or not at all.

Everything is written into a hidden folder beside the target and renamed at the end, so that a
failure, a full disk or Ctrl-C leaves no half-written OUT. `--overwrite` replaces only what
depthprune wrote: the files that the old manifest lists. Files of the user's own are carried over.
An output that is one file (a GGUF) has its manifest and its page beside it, under its own name.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.untrusted import read_untrusted

MANIFEST_NAME = "depthprune.json"
PAGE_NAME = "report.html"


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


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that must not be written, before any work is done.

    Args:
        out: A folder; or a GGUF, for which see `check_file_target`.
        overwrite: Replace an earlier output of depthprune.

    Raises:
        OutputError: If `out` is a file, holds anything and `overwrite` is False, or holds files
            that depthprune did not write where it would have to write its own; or if its folder
            cannot be written.
    """
    if is_file_output(out):
        check_file_target(out, overwrite=overwrite)
        return
    parent = _nearest_folder(out)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"-o {out}: {parent} cannot be written; choose another path")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise OutputError(f"-o {out}: expected a folder, found a file; choose another path")
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


def _nearest_folder(out: Path) -> Path:
    parent = out.absolute().parent
    while not parent.exists():
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
            f"-o {where}: needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; "
            "free some space, or choose another disk"
        )


@contextmanager
def staged(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block ends without an exception.

    Args:
        out: The target folder. Missing parents are made.
        overwrite: Replace the files of an earlier output of depthprune.

    Yields:
        A fresh folder on the same file system as `out`.

    Raises:
        OutputError: As `check_target`, or when the disk is full.
    """
    check_target(out, overwrite=overwrite)
    with _beside(out) as stage:
        stage.chmod(0o777 & ~_umask())
        yield stage
        _publish(stage, out)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A fresh folder on the file system of `out`, gone afterwards; disk errors name `out`.

    Of the parents that are made for it, those that stay empty go too.
    """
    stage: Path | None = None
    parent = out.absolute().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        with _disk_errors(out):
            parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=parent))
            yield stage
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def is_file_output(out: Path) -> bool:
    """Whether an output is one file with its manifest beside it, by its name: a GGUF."""
    return out.suffix.lower() == ".gguf"


def placed(out: Path, name: str) -> Path:
    """Where an output keeps its `MANIFEST_NAME` or `PAGE_NAME`: within it, or beside it.

    Args:
        out: A folder, or a file: `x.gguf` has `x.depthprune.json`.
        name: One of the two.
    """
    return out.with_suffix(f".{name}") if is_file_output(out) else out / name


def check_file_target(out: Path, *, overwrite: bool) -> None:
    """Refuse an output file that must not be written, before any work is done.

    Args:
        out: The file; its manifest and page are to stand beside it.
        overwrite: Replace an earlier output of depthprune.

    Raises:
        OutputError: If `out` is a folder, one of the files exists and `overwrite` is False or
            its manifest does not list it, or the folder cannot be written.
    """
    parent = _nearest_folder(out)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"-o {out}: {parent} cannot be written; choose another path")
    if out.is_dir():
        raise OutputError(f"-o {out}: expected a file, found a folder; choose another path")
    manifest = placed(out, MANIFEST_NAME)
    there = [path for path in (out, manifest, placed(out, PAGE_NAME)) if os.path.lexists(path)]
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
def staged_file(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path to write a file at, which becomes `out` when the block ends without an exception.

    What else is written into the path's folder is put beside `out`, the manifest last: once it is
    there, so is everything that it names.

    Args:
        out: The target file. Missing parents are made.
        overwrite: Replace the files of an earlier output of depthprune.

    Yields:
        A path with the name of `out` in a fresh folder on the same file system.

    Raises:
        OutputError: As `check_file_target`, or when the disk is full.
    """
    check_file_target(out, overwrite=overwrite)
    with _beside(out) as stage:
        yield stage / out.name
        manifest = placed(out, MANIFEST_NAME).name
        for path in sorted(stage.iterdir(), key=lambda path: path.name == manifest):
            os.replace(path, stage.parent / path.name)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place when the block ends well.

    Raises:
        OutputError: When the disk is full, or the folder cannot be written.
    """
    partial: Path | None = None
    try:
        with _disk_errors(path):
            parent = path.absolute().parent
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=parent)
            os.close(handle)
            partial = Path(name)
            partial.chmod(0o666 & ~_umask())
            yield partial
            os.replace(partial, path)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"-o {out}: the disk is full ({error.strerror}); free some space and run again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OutputError(
                f"-o {out}: cannot be written ({error.strerror}); choose another path"
            ) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _publish(stage: Path, out: Path) -> None:
    if not out.is_dir():
        os.rename(stage, out)
        return
    if any(out.iterdir()):
        _carry_over(stage, out)
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.absolute().parent))
    try:
        os.rename(out, old / "out")
        try:
            os.rename(stage, out)
        except OSError:
            os.rename(old / "out", out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _carry_over(stage: Path, out: Path) -> None:
    ours = files_of(out)
    for entry in sorted(out.iterdir()):
        if entry.name in ours:
            continue
        if (stage / entry.name).exists():
            raise OutputError(
                f"-o {out}: {entry.name} is not depthprune's, and the new output has a file of "
                "that name; move it away, or choose another folder"
            )
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, stage / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, stage / entry.name, follow_symlinks=False)
