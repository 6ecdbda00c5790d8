"""What was asked for, and what it costs, whoever computed it.

A budget must end a resumed run where it would have ended an uninterrupted one, so it counts asks
and not work. What is asked costs what a run that knows nothing computes for it: where windows are
missing in a call others fill its rows, and those cost nothing when they are asked for next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.calls import Call
from depthprune.evaluator.prefix_walk import RemovedSet

Layout = Callable[[Sequence[int], Sequence[int]], Iterable[Call]]
"""Says which windows share calls, others filling their rows."""


class Asked(Collection[RemovedSet]):
    """The sets that were asked for, be it on some windows; each ask is counted once.

    Args:
        order: All windows, those that a race comes to first at first.

    Attributes:
        windows: Windows asked for, of every set but the dense model.
        block_tokens: What they cost.
    """

    def __init__(self, order: Sequence[int]) -> None:
        self.windows = 0
        self.block_tokens = 0
        self._order = order
        self._asked: dict[RemovedSet, NDArray[np.bool_]] = {}
        self._paid: dict[RemovedSet, NDArray[np.bool_]] = {}

    def __contains__(self, removed: object) -> bool:
        """Whether a set was asked for."""
        return removed in self._asked

    def __iter__(self) -> Iterator[RemovedSet]:
        """All sets, in the order in which they were."""
        return iter(self._asked)

    def __len__(self) -> int:
        """How many sets."""
        return len(self._asked)

    def forget(self) -> None:
        """Count what is asked for from here on as if for the first time."""
        self._asked.clear()
        self._paid.clear()

    def note(
        self,
        sets: Sequence[RemovedSet],
        places: Sequence[int],
        layout: Layout,
        walked: Callable[[int, Sequence[RemovedSet]], int],
    ) -> None:
        """Count sets on windows.

        Args:
            sets: Which sets.
            places: Which windows.
            layout: The calls of a run that knows nothing.
            walked: Block-tokens of sets on so many tokens.
        """
        where = np.asarray(places)
        unpaid: dict[tuple[int, ...], list[RemovedSet]] = {}
        for removed in dict.fromkeys(sets):
            asked = self._asked.setdefault(removed, np.zeros(len(self._order), np.bool_))
            self.windows += int((~asked[where]).sum()) if removed else 0
            asked[where] = True
            paid = self._paid.setdefault(removed, np.zeros(len(self._order), np.bool_))
            if len(new := where[~paid[where]]):
                unpaid.setdefault(tuple(new.tolist()), []).append(removed)
        for new, members in unpaid.items():
            calls = list(layout(new, self._spare(new, members)))
            self.block_tokens += walked(sum(call.size for call in calls), members)
            filled = [place for call in calls for place in call.places]
            for removed in members:
                self._paid[removed][filled] = True

    def _spare(self, places: Sequence[int], members: Sequence[RemovedSet]) -> list[int]:
        """Windows that none of the sets has been paid for on, besides."""
        taken = np.any([self._paid[removed] for removed in members], axis=0)
        taken[list(places)] = True
        return [place for place in self._order if not taken[place]]
