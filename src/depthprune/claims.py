"""An output is one process's from the first check on, and appears in one step.

A process that is to write OUT makes its stage, a hidden folder beside it, before it does any work:
names and places that cannot be written are refused then, and so is a second process with the same
OUT while the first lives. What the stage holds at the end takes OUT's place in one step. Whether it
may is looked at once more then, since hours may have passed. What a kill left behind is swept away
by the next process that writes the same OUT; files that it was publishing are put in place.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.outputs import (
    OutputTarget,
    check_name,
    check_target,
    disk_errors,
    user_mask,
    whole_file,
)
from depthprune.publishing import COMMIT, OLD, move_files, publish_folder
from depthprune.staging import (
    LockedError,
    abandoned,
    hidden_folder,
    hidden_names,
    locked,
    process_of,
    remove,
    sweep,
)

_STAGE, DENSE = "partial", "dense"
_TRIES, _WAIT = 8, 0.1

_made: list[Claim] = []


class Claim:
    """An output that this process alone writes.

    Args:
        target: What is written; no link.
        folder: Its stage.
        overwrite: Whether an earlier output may be replaced.

    Attributes:
        target: What is written.
        place: Where it is written until it is published, and where it stands from then on.
        published: Whether it was published.
    """

    def __init__(self, target: OutputTarget, folder: Path, *, overwrite: bool) -> None:
        self.target = target
        self.place = folder / target.path.name if target.is_file else folder
        self.published = False
        self._folder = folder
        self._overwrite = overwrite
        self._identity = _identity(folder)

    @property
    def placed(self) -> OutputTarget:
        """The output where it is now: staged, or published."""
        return self.target.at(self.place)

    @property
    def stands(self) -> bool:
        """Whether what was staged is what OUT names now, asked of the file system."""
        return self._identity is not None and _identity(self.target.path) == self._identity

    def publish(self) -> None:
        """Put what was staged in OUT's place.

        Raises:
            OutputError: If another wrote it meanwhile, or the disk is full.
        """
        with disk_errors(self.target.path):
            if self.target.is_file:
                self._publish_files()
            else:
                publish_folder(self._folder, self.target.path, self._check_again)
        self.place = self.target.path
        self.published = True

    def amend(self, texts: Mapping[str, str]) -> None:
        """Write some files of what was published anew, each whole or not at all.

        Args:
            texts: By their names, in the order in which they are to be written.

        Raises:
            OutputError: If OUT was replaced or removed since it was published, or the disk is full.
        """
        if not self.stands:
            raise OutputError(f"-o {self.target}: was replaced or removed while it was measured")
        for name, text in texts.items():
            with whole_file(self.target.folder / name) as partial:
                partial.write_text(text, encoding="utf-8")

    def _publish_files(self) -> None:
        self._check_again()
        self._identity = _identity(self.place)
        (self._folder / COMMIT).write_text("over" if self._overwrite else "new", encoding="utf-8")
        move_files(self._folder, self.target, replace=self._overwrite)

    def _check_again(self) -> None:
        try:
            check_target(self.target, overwrite=self._overwrite)
        except OutputError as error:
            raise OutputError(f"{error} (it came to be while this run was at work)") from error


@contextmanager
def claimed(target: OutputTarget, *, overwrite: bool = False) -> Iterator[Claim]:
    """Take an output for this process, with a stage to write it in.

    Args:
        target: What `-o` names; a link to a folder stays. Missing parents are made; those that
            stay empty go again.
        overwrite: Replace the files of an earlier output of depthprune.

    Yields:
        The claim; what it does not publish is gone afterwards.

    Raises:
        OutputError: As `check_target`; or if another process has it, or the disk is full.
    """
    check_name(target)
    check_target(target, overwrite=overwrite or _remains(target))
    out = _behind(target)
    with disk_errors(target.path), _parents(out), ExitStack() as held:
        adopted = _adopt(target.at(out))
        check_target(target, overwrite=overwrite or adopted)
        stage = _sole_stage(out, held)
        if not target.is_file:
            stage.chmod(0o777 & ~user_mask())
        claim = Claim(target.at(out), stage, overwrite=overwrite or adopted)
        _made.append(claim)
        yield claim


@contextmanager
def staged(target: OutputTarget, *, overwrite: bool = False) -> Iterator[Path]:
    """A place to write at, which becomes the output when the block ends without an exception.

    Args:
        target: The output; of a file, what else is written beside the place is put beside it.
        overwrite: Replace the files of an earlier output of depthprune.

    Yields:
        A fresh folder on the same file system, or a path in one with the file's name.

    Raises:
        OutputError: As `claimed`.
    """
    with claimed(target, overwrite=overwrite) as claim:
        yield claim.place
        claim.publish()


@contextmanager
def held(folder: Path, named: str = "-o") -> Iterator[None]:
    """Hold a folder that is written piece by piece, so that no other process does.

    Args:
        folder: The folder, which exists.
        named: By what it was given.

    Raises:
        OutputError: If another process does.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.resolve()))
        except LockedError:
            raise OutputError(
                f"{named} {folder}: another process is writing there; let it end, or choose "
                "another folder"
            ) from None
        yield


def forget_claims() -> None:
    """Begin anew to note what this process writes."""
    _made.clear()


def published() -> list[Path]:
    """What this process wrote and still stands, asked of the file system."""
    return [claim.target.path for claim in _made if claim.stands]


def _sole_stage(out: Path, held: ExitStack) -> Path:
    """A stage, made and locked, when no other process that lives has one for the same output.

    Two that begin together see each other; both give way, and try again at different moments.
    """
    for tries in range(_TRIES):
        with ExitStack() as attempt:
            stage = attempt.enter_context(hidden_folder(out.parent, out.name, _STAGE))
            others = [path for path in hidden_names(out.parent, out.name, _STAGE) if path != stage]
            other = next((path for path in others if _is_held(path)), None)
            try:
                if other is None:
                    if out.is_dir():
                        attempt.enter_context(locked(out))
                    held.push(attempt.pop_all())
                    return stage
            except LockedError:
                pass
        if tries < _TRIES - 1:
            time.sleep(_WAIT * (0.5 + random.random()))
    who = f"process {process_of(other)}" if other is not None else "another process"
    raise OutputError(f"-o {out}: {who} is writing there; let it end, or choose another path")


def _is_held(path: Path) -> bool:
    try:
        with locked(path):
            return False
    except LockedError:
        return True


def _remains(target: OutputTarget) -> bool:
    """Whether a process that is dead left what belongs to this output beside it."""
    found = hidden_names(_behind(target).parent, target.path.name, _STAGE)
    return any((path / COMMIT).exists() for path in found)


def _adopt(target: OutputTarget) -> bool:
    """Clear away what dead processes left; whether files of an unfinished output were put in place.

    One that was killed while it published a GGUF left some of its files; the others follow. Where
    names cannot be exchanged, one killed in between left no OUT at all; the earlier one comes back.
    """
    adopted, out = False, target.path
    for path in hidden_names(out.parent, out.name, OLD):
        with abandoned(path) as dead:
            if dead and (path / "out").is_dir() and not os.path.lexists(out):
                os.rename(path / "out", out)
            if dead:
                remove(path)
    for path in hidden_names(out.parent, out.name, _STAGE):
        with abandoned(path) as dead:
            if dead and (path / COMMIT).exists():
                replace = (path / COMMIT).read_text(encoding="utf-8") == "over"
                with suppress(FileExistsError):
                    move_files(path, target, replace=replace)
                    adopted = True
            if dead:
                remove(path)
    sweep(out.parent, out.name, DENSE)
    return adopted


def _behind(target: OutputTarget) -> Path:
    """The output itself, absolute; of a link to a folder, the folder."""
    out = target.path
    if not target.is_file and out.is_symlink() and out.is_dir():
        return out.resolve()
    return out.absolute()


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Make the folders above an output; of those that are made, the ones that stay empty go."""
    missing = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    return found.st_dev, found.st_ino
