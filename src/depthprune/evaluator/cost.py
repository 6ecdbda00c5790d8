"""Cost, counted and never guessed: block-tokens and head-tokens.

A block-token is one token through one block, a head-token one token through the head. Both are the
same on every machine, which seconds are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from depthprune.calibration import Window
    from depthprune.evaluator.prefix_walk import RemovedSet


@dataclass(frozen=True)
class Cost:
    """What an evaluator has spent so far.

    Attributes:
        evaluations: Removed sets that were asked for, a set on half of the windows counting half;
            the dense model is not counted.
        block_tokens: Tokens times blocks that were run.
        head_tokens: Tokens whose logits were computed.
        plain_block_tokens: Block-tokens that one plain forward pass for each scored set, the dense
            model included, would have cost.
        recalled: Losses (of one set on one window) that a memo gave.
        asked_block_tokens: Block-tokens of all that was asked for, whoever computed it: what it
            takes where nothing is known before, so it is the same on a second run.
        seconds: Wall time inside the evaluator.
    """

    evaluations: float = 0.0
    block_tokens: int = 0
    head_tokens: int = 0
    plain_block_tokens: int = 0
    recalled: int = 0
    asked_block_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __sub__(self, other: Cost) -> Cost:
        """What was spent since `other`."""
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)))


class Asked:
    """Which sets were asked for on which windows, whoever computed them.

    Args:
        windows: Of the calibration.
    """

    def __init__(self, windows: int) -> None:
        self._windows = windows
        self._asked: dict[RemovedSet, NDArray[np.bool_]] = {}
        self._counted = 0

    @property
    def evaluations(self) -> float:
        """Sets that were asked for so far, by their share of the windows; not the dense model."""
        return self._counted / self._windows

    def note(
        self, sets: Sequence[RemovedSet], places: Sequence[int]
    ) -> dict[tuple[int, ...], list[RemovedSet]]:
        """Count sets on some windows.

        Returns:
            Sets by the windows, of these, that they had not been asked for on.
        """
        where = np.asarray(places)
        fresh: dict[tuple[int, ...], list[RemovedSet]] = {}
        for removed in sets:
            asked = self._asked.setdefault(removed, np.zeros(self._windows, np.bool_))
            if len(new := where[~asked[where]]):
                fresh.setdefault(tuple(new.tolist()), []).append(removed)
                self._counted += len(new) if removed else 0
                asked[new] = True
        return fresh

    def clear(self) -> None:
        """Take what is asked for from here on as if it were for the first time."""
        self._asked.clear()

    def __contains__(self, removed: RemovedSet) -> bool:
        """Whether a set was asked for, be it on some of the windows."""
        return removed in self._asked

    def __iter__(self) -> Iterator[RemovedSet]:
        """The sets."""
        return iter(self._asked)

    def __len__(self) -> int:
        """How many sets."""
        return len(self._asked)


def plain_tokens(window: Window) -> int:
    """Tokens of a window in plain forwards: of an item, its prompt once for each option."""
    if window.item is None:
        return len(window.tokens)
    prompt = window.item.spans[0][0]
    return len(window.tokens) + prompt * (len(window.item.spans) - 1)
