"""What was chosen by timing is kept for later runs on the same machine.

Two ways that take about as long are timed now one and now the other faster, and each rounds in its
own way: a run that is gone on with would find none of its losses again. So the first answer stands,
in the user's cache folder; where that cannot be written, each process answers for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.outputs import cache_folder, whole_file

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
            answer = choose()
            found = _read(place)  # of two processes that answer at once, the first is believed
            if found is None:
                found = answer
                place.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(place) as partial:
                    partial.write_text(_WORDS[answer], encoding="utf-8")
        return found
    return choose()


def _read(place: Path) -> bool | None:
    try:
        with place.open(encoding="utf-8") as file:
            text = file.read(8)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return next((answer for answer, word in _WORDS.items() if word == text), None)
