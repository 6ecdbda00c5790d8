"""The errors a user can meet, in a few kinds.

Every refusal is a `DepthpruneError` whose message is one line: the field, what was expected,
what came, and the remedy. The kinds exist so that a caller can tell a wrong call from a broken
file without reading the message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2_000
"""Characters of a message. What it quotes may come from a file, and be of any length."""


def one_line(text: str, most: int = _LONGEST) -> str:
    """A text as one line that is safe to show: what does not print spelled out, its middle cut.

    Names of tensors, keys and architectures come from files, and end up in messages. A terminal
    obeys the escape sequences in them, and reorders or hides what certain characters tell it to.

    Args:
        text: Any text.
        most: Characters of the answer.
    """
    # Four times as much is enough to fill the line, whatever has to be spelled out or is blank.
    if len(text) > 4 * most:
        text = f"{text[: 2 * most]} … {text[-2 * most :]}"
    words = " ".join(text.split())
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)
    return line if len(line) <= most else f"{line[: most * 2 // 3]} … {line[-(most // 3 - 3) :]}"


class DepthpruneError(Exception):
    """Base of everything this package refuses. Its message is one line with the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(DepthpruneError):
    """An argument, flag, spec or plan is wrong (command line exit status 2)."""


class ModelError(DepthpruneError):
    """A model cannot be loaded, or its blocks cannot be found or called."""


class CheckpointError(ModelError):
    """A checkpoint's files are missing, damaged or refused."""


class CalibrationError(DepthpruneError):
    """A source of text is missing, empty, too short or unreadable."""


class EvaluationError(DepthpruneError):
    """Losses could not be computed, or none of them is finite."""


class NoWorkersError(EvaluationError):
    """Nothing is left to compute with; what was to be computed is neither right nor wrong."""


class ParityError(DepthpruneError):
    """The written checkpoint does not compute what the masked model computes."""


class OutputError(DepthpruneError):
    """An output exists already, or could not be written whole."""


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of another library's message, or the error's kind where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0][: 4 * limit], limit)


def failure(what: str, error: BaseException) -> str:
    """The line for what another package's code raised, whose traceback `--debug` shows.

    Args:
        what: Whose code it is, such as `"search 'mine'"`.
        error: What it raised.
    """
    return f"{what} failed ({type(error).__name__}: {first_line(error)}); --debug shows where"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the nearest known one.

    Args:
        kind: What was named, such as `"search"`.
        name: What the user wrote.
        known: The names that would have been accepted.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
    return UsageError(f"unknown {kind} {name!r}; {hint}")
