"""Greedy: remove the block whose removal costs least, again and again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import (
    dead_end,
    longer,
    ranked,
)
from depthprune.searches.common.protocol import (
    Ask,
    ChosenSize,
    Plan,
    RemovedSet,
    Space,
)


@dataclass(frozen=True)
class Greedy(Method):
    """Iterative deletion: each step sees the model as the steps before left it.

    Source: arXiv 2604.24938, search 2; SLEB.
    """

    method: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "remove the cheapest block, k times over; about k·N evaluations"
    grows: ClassVar[bool] = True

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return sum(len(space.free) - size for size in range(space.k - 1)) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`. Ties go to the lower block number."""
        removed: RemovedSet = ()
        for _ in range(space.k):
            sets = tuple(longer(space, removed))
            if not sets:
                raise dead_end(space, [removed])
            removed = ranked(sets, (yield Ask(sets, keep=1)))[0]
            if (yield ChosenSize(removed)):
                break
        return removed
