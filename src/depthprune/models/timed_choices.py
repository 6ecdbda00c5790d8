"""What was chosen by timing is kept for later runs on the same machine.

Two ways that take about as long are timed now one and now the other faster, and each rounds in its
own way: a run that is gone on with would find none of its losses again. So the first answer stands,
in the user's cache folder; where that cannot be written, each process answers for itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.outputs import cache_folder, whole_file

_BYTES = 64
"""Of an answer, at most."""


def remembered(question: str, choose: Callable[[], bool]) -> bool:
    """The answer to a question of yes or no that was asked before, or else one kept from now on.

    Args:
        question: With all that its answer depends on.
        choose: Answers it.
    """
    return remembered_choice(question, ("yes", "no"), lambda: "yes" if choose() else "no") == "yes"


def remembered_choice(question: str, answers: Collection[str], choose: Callable[[], str]) -> str:
    """The same of a question with other answers.

    Args:
        question: With all that its answer depends on.
        answers: Words without a line end; anything else that was kept is asked anew.
        choose: Gives one of them.
    """
    name = hashlib.sha256(question.encode()).hexdigest()[:32]
    with suppress(OSError, OutputError):
        place = cache_folder() / "timed" / name
        found = _read(place, answers)
        if found is None:
            answer = choose()
            found = _read(place, answers)  # of two that answer at once, the first is believed
            if found is None:
                found = answer
                place.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(place) as partial:
                    partial.write_text(answer + "\n", encoding="utf-8")
        return found
    return choose()


def _read(place: Path, answers: Collection[str]) -> str | None:
    try:
        with place.open(encoding="utf-8") as file:
            text = file.read(_BYTES)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return next((answer for answer in answers if text == answer + "\n"), None)
