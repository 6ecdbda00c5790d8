"""What was chosen by timing is kept for later runs on the same machine.

Two ways that take about as long are timed now one and now the other faster, and each rounds in its
own way: a run that is gone on with would find none of its losses again. So the first answer stands,
in the user's cache folder; where that cannot be written, each process answers for itself.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.outputs import cache_folder

_WORDS = {True: "yes\n", False: "no\n"}


def remembered(question: str, choose: Callable[[], bool]) -> bool:
    """The answer to a question that was asked before, or else one that is kept from now on.

    Args:
        question: With all that its answer depends on.
        choose: Answers it.
    """
    name = hashlib.sha256(question.encode()).hexdigest()[:32]
    with suppress(OSError, OutputError):
        place = cache_folder() / "timed" / name
        found = _read(place)
        if found is None:
            found = choose()
            _keep(place, found)
            kept = _read(place)  # of two processes that answer at once, the first is believed
            found = found if kept is None else kept
        return found
    return choose()


def _read(place: Path) -> bool | None:
    try:
        with place.open(encoding="utf-8") as file:
            text = file.read(8)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return next((answer for answer, word in _WORDS.items() if word == text), None)


def _keep(place: Path, answer: bool) -> None:
    """Write an answer, whole, where there is none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    number, partial = tempfile.mkstemp(dir=place.parent)
    try:
        with open(number, "w", encoding="utf-8") as file:
            file.write(_WORDS[answer])
        try:
            os.link(partial, place)
        except FileExistsError:
            if _read(place) is None:  # what is there is no answer
                os.replace(partial, place)
        except OSError:  # a file system without hard links
            os.replace(partial, place)
    finally:
        with suppress(OSError):
            os.unlink(partial)
