"""The command line: one file a verb.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An error is one line on stderr,
`error: …`, with the remedy; `--debug` shows the traceback. With `--json` stdout holds one JSON
document and nothing else. Verbs import what they need when they run, so that `--help` and `apply`
do not load torch.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from time import monotonic
from types import FrameType
from typing import Any, TextIO

import typer

from depthprune.claims import forget_claims
from depthprune.cli.app import app
from depthprune.cli.console import listening
from depthprune.errors import DepthpruneError, UsageError, first_line, one_line
from depthprune.pruning.standing import forget_standing, what_stands

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_MOST_OF_A_NAME = 200
_CLEANS_UP = 10.0
"""Seconds in which a run that was asked to end is not asked again."""
_NEAREST = "depthprune.nearest"
"""Name of what encodes characters that a stream's encoding lacks."""
_NEAR = {"−": "-", "±": "+-", "×": "x", "–": "-", "…": "...", **dict.fromkeys("▏▎▍▌▋▊▉█", "#")}
_ASKED: list[float] = []
"""When this run was asked to end."""
_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "name what the links were meant to lead to",
    errno.EACCES: "have its owner let this user in, or name another place",
    errno.EPERM: "have its owner let this user in, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "make room there, or name another place",
    errno.EDQUOT: "make room there, or name another place",
    errno.EMFILE: "let this user open more files (ulimit -n)",
    errno.ENFILE: "close what holds files open, and try again",
    errno.EIO: "the disk or the network failed; try again, or from a copy",
    errno.ESTALE: "its server has replaced it; try again",
}
"""What to do where the system refuses a file: that is no bug, wherever it is met."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status.

    Args:
        arguments: What follows the program's name; by default the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        _tolerate(stream)
    _ASKED.clear()
    _listen(_stop)
    forget_claims()
    forget_standing()
    status = FAILED
    try:
        with listening():
            status = _run(words, debug)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # Once more, while the first was being answered.
        status = INTERRUPTED
    except OSError:
        # Whoever read our output has gone, or it takes no more, which was said; Python would
        # complain once more when it closes stdout.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # All is said. A request that comes now would end what libraries do at exit in a traceback.
    _listen(signal.SIG_DFL)
    sys.exit(status)


def _run(words: list[str], debug: bool) -> int:
    try:
        _check_words(words)
        status = app(words, prog_name="depthprune", standalone_mode=False, obj=words) or DONE
        # Typer turns Ctrl-C into this status by itself, in some versions without a word.
        if status != INTERRUPTED:
            return int(status)
    except (KeyboardInterrupt, typer.Abort):
        pass
    except Exception as error:
        return _failed(error, words, debug)
    return _say(f"interrupted; {what_stands()}", INTERRUPTED, debug)


def _failed(error: Exception, words: list[str], debug: bool) -> int:
    """Say what ended a run, in a line."""
    if _ASKED or _is_interruption(error):
        return _say(f"interrupted; {what_stands()}", INTERRUPTED, debug)
    if isinstance(error, DepthpruneError):
        status = WRONG_USAGE if isinstance(error, UsageError) else FAILED
        return _say(str(error), status, debug)
    # Typer's own complaints about flags are recognised by what they carry, since typer
    # vendors click in some versions and depends on it in others.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _say(_complaint(error), WRONG_USAGE, debug)
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, OSError) and {"--help", "--version"} & set(words):
        # Typer prints these itself.
        where = f"standard output: cannot be written ({error.strerror})"
        return _say(f"{where}; send it elsewhere", FAILED, debug)
    if isinstance(error, OSError) and error.errno in _REMEDIES and error.filename is not None:
        name = os.fsdecode(error.filename) if not isinstance(error.filename, int) else "a file"
        said = str(error.strerror).lower()
        name = one_line(name, _MOST_OF_A_NAME)
        return _say(f"{name}: {said}; {_REMEDIES[error.errno]}", FAILED, debug)
    if _memory_ran_out(error):
        return _say(
            f"memory ran out ({first_line(error)}); close other programs, or take fewer windows= "
            "or a shorter length=, --dtype bfloat16, --stream or another --device",
            FAILED,
            debug,
        )
    what = " ".join(str(error).split()) or "no message"
    advice = "" if debug else "; this is a bug: run again with --debug and report what it shows"
    return _say(f"{type(error).__name__}: {what}{advice}", FAILED, debug)


def _complaint(error: Any) -> str:
    """What typer has to say of the words of a command line, and where the right ones stand."""
    message = " ".join(str(error.format_message()).split())
    if message.endswith("?") or "Possible options" in message:
        return message
    context = getattr(error, "ctx", None)
    verb = "depthprune" if context is None else context.command_path
    return f"{message.rstrip('.')}; see {verb} --help"


def _memory_ran_out(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from depthprune.models.free_memory import out_of_memory

    return out_of_memory(error)


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an error came of an interruption, which a library took for a failure of its own.

    A module written in C that is being imported, for one, says that its initialisation failed.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _check_words(words: list[str]) -> None:
    """Refuse what no manifest can record, before any work is done."""
    for number, word in enumerate(words, start=1):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"argument {number}: {word!a} is not UTF-8; rename what it names"
            ) from error


def _say(message: str, status: int, debug: bool) -> int:
    if debug:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"error: {one_line(message)}", file=sys.stderr)  # noqa: T201
    return status


def _open_what_is_closed() -> None:
    """Put nothing in the place of streams that were closed, or the next file opened would be one.

    What a library prints would go into that file, and Python has no stream at all there.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _tolerate(stream: TextIO) -> None:
    """Let a terminal that cannot show a character show another instead of failing."""
    codecs.register_error(_NEAREST, _nearest)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=_NEAREST)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: a loss's sign is not lost with them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_NEAR.get(each, "?") for each in lost), error.end


def _listen(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Say what a request to end, or a terminal that closes, does.

    What was set to be ignored stays so: `nohup` means a run to survive its terminal.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    now = monotonic()
    # A further request would break off the cleaning up, but the first may have been lost: modules
    # written in C swallow what is raised while they are imported.
    if number != signal.SIGINT and _ASKED and now - _ASKED[-1] < _CLEANS_UP:
        return
    _ASKED.append(now)
    raise KeyboardInterrupt
