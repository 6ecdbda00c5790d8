"""The command line: one file a verb.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An error is one line on stderr,
`error: …`, with the remedy; `--debug` shows the traceback. With `--json` stdout holds one JSON
document and nothing else. Verbs import what they need when they run, so that `--help` and `apply`
do not load torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import TextIO

import typer

from depthprune.cli.app import app
from depthprune.errors import DepthpruneError, UsageError, one_line

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status.

    Args:
        arguments: What follows the program's name; by default the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):
        _tolerate(stream)
    signal.signal(signal.SIGTERM, _terminated)
    with contextlib.suppress(BrokenPipeError):
        sys.exit(_run(words, debug))
    # Whoever read our output has gone; Python would complain once more when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(FAILED)


def _run(words: list[str], debug: bool) -> int:
    try:
        status = app(words, prog_name="depthprune", standalone_mode=False, obj=words) or DONE
        # Typer turns Ctrl-C into this status by itself, in some versions without a word.
        if status != INTERRUPTED:
            return int(status)
    except (KeyboardInterrupt, typer.Abort):
        pass
    except UsageError as error:
        return _say(str(error), WRONG_USAGE, debug)
    except DepthpruneError as error:
        return _say(str(error), FAILED, debug)
    except Exception as error:
        # Typer's own complaints about flags are recognised by what they carry, since typer
        # vendors click in some versions and depends on it in others.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            message = " ".join(str(error.format_message()).split())
            hint = "" if words else "; see depthprune --help"
            return _say(message.rstrip(".") + hint, WRONG_USAGE, debug)
        if isinstance(error, BrokenPipeError):
            raise
        what = " ".join(str(error).split()) or "no message"
        advice = "" if debug else "; this is a bug: run again with --debug and report what it shows"
        return _say(f"{type(error).__name__}: {what}{advice}", FAILED, debug)
    return _say("interrupted; nothing was written", INTERRUPTED, debug)


def _say(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)  # noqa: T201
    return status


def _tolerate(stream: TextIO) -> None:
    """Let a terminal that cannot show a character show another instead of failing."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
