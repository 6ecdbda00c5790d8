"""Greedy: remove the block whose removal costs least, again and again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from depthprune.search.protocol import Ask, Grown, Plan, RemovedSet, Space


@dataclass(frozen=True)
class Greedy:
    """Iterative deletion: each step sees the model as the steps before left it.

    Source: arXiv 2604.24938, search 2; SLEB.
    """

    name: str = "greedy"
    summary: str = "remove the cheapest block, k times over; about k·N evaluations"
    grows: bool = True

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`. Ties go to the lower block number."""
        removed: RemovedSet = ()
        for _ in range(space.k):
            sets = tuple(
                tuple(sorted((*removed, block))) for block in space.free if block not in removed
            )
            scores = yield Ask(sets, keep=1)
            removed = min(zip(scores, sets, strict=True), key=lambda s: (s[0].loss, s[1]))[1]
            if (yield Grown(removed)):
                break
        return removed
