"""What an interrupted run leaves, in the words of its last line.

An output stands where the file system says so. What is written piece by piece, such as a study's
table, is told by whoever writes it, at the moment of the interruption.
"""

from __future__ import annotations

from collections.abc import Callable

from depthprune.claims import published

_told: list[Callable[[], str | None]] = []


def if_interrupted(tell: Callable[[], str | None]) -> None:
    """Have a verb tell what stands of what it writes piece by piece.

    Args:
        tell: Asked when the run is interrupted; None where nothing stands.
    """
    _told.append(tell)


def forget_standing() -> None:
    """Begin a run anew."""
    _told.clear()


def what_stands() -> str:
    """What the run wrote before it was interrupted."""
    stands = [f"{out} stands, whole" for out in published()]
    stands += [told for tell in _told if (told := tell()) is not None]
    return "; ".join(stands) or "nothing was written"
