"""Putting what was staged in an output's place: a folder in one step, files one after the other.

A folder's name is exchanged with the earlier output's where the system can, so that at no moment
there is none. The earlier one's files that depthprune did not write are carried over before.
Files that stand beside each other cannot appear in one step: the manifest comes first, since it
names the others, and what a kill leaves of them is put in place by the next process.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.outputs import OutputTarget, files_of
from depthprune.renames import exchange, rename_new
from depthprune.staging import hidden_folder

OLD = "old"
COMMIT = ".commit"


def publish_folder(stage: Path, out: Path, check: Callable[[], None]) -> None:
    """Give a staged folder the output's name.

    Args:
        stage: The folder.
        out: The output; may be there.
        check: Refuses one that holds something and may not be replaced.
    """
    if sys.platform == "win32":
        with suppress(OSError):
            out.rmdir()
    try:
        # An empty folder is replaced in the same step, one that holds anything never is.
        os.rename(stage, out)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
    check()
    ours = files_of(out)
    _carry_over(stage, out, ours)
    if exchange(stage, out):
        _rescue(stage, out, ours)
        return
    with hidden_folder(out.parent, out.name, OLD) as old:
        os.rename(out, old / "out")
        try:
            os.rename(stage, out)
        except BaseException:
            os.rename(old / "out", out)
            raise
        _rescue(old / "out", out, ours)


def move_files(stage: Path, output: OutputTarget, *, replace: bool) -> None:
    """Put the files of a stage beside each other, the manifest first: it names all the others."""
    order = {output.manifest.name: 0, output.path.name: 2}
    moved: list[Path] = []
    files = [path for path in stage.iterdir() if path.name != COMMIT]
    for path in sorted(files, key=lambda path: (order.get(path.name, 1), path.name)):
        target = output.folder / path.name
        if replace:
            os.replace(path, target)
            continue
        try:
            rename_new(path, target)
        except FileExistsError:
            for earlier in moved:
                os.replace(earlier, stage / earlier.name)
            raise OutputError(
                f"-o {output}: {target.name} came to be while this run was at work; choose another "
                "name, or pass --overwrite"
            ) from None
        moved.append(target)


def _carry_over(stage: Path, out: Path, ours: frozenset[str]) -> None:
    """Give the new output the files of the user's own that the earlier one holds."""
    for entry in sorted(out.iterdir()):
        if entry.name in ours:
            continue
        if os.path.lexists(stage / entry.name):
            raise OutputError(
                f"-o {out}: {entry.name} is not depthprune's, and the new output has a file of "
                "that name; move it away, or choose another folder"
            )
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, stage / entry.name, symlinks=True, copy_function=_share)
        else:
            _share(str(entry), str(stage / entry.name))


def _share(source: str, target: str) -> str:
    """The same file under another name, or a copy where there is no such thing."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def _rescue(old: Path, out: Path, ours: frozenset[str]) -> None:
    """Keep what came into the earlier output after its files were carried over."""
    for entry in sorted(old.iterdir()):
        if entry.name not in ours and not os.path.lexists(out / entry.name):
            os.rename(entry, out / entry.name)
