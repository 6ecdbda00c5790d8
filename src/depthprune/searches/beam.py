"""Beam: greedy that keeps several sets of each size, so that one bad step is not the last word."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import (
    dead_end,
    longer,
    ranked,
)
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)


@dataclass(frozen=True)
class Beam(Method):
    """Extend each of the kept sets by every block, and keep the best distinct ones.

    Source: arXiv 2604.24938, search 3, of width 5.

    Attributes:
        width: How many sets of each size are kept; with 1 it is greedy.
    """

    width: Annotated[int, Field(ge=1)] = 5

    method: ClassVar[str] = "beam"
    summary: ClassVar[str] = "greedy that keeps the best few sets of each size; width="

    def least(self, space: Space) -> int:
        """See `Method.least`: what the steps before the last take at most, and one set."""
        n = len(space.free)
        kept = [min(self.width, math.comb(n, size)) for size in range(space.k)]
        return sum(kept[size] * (n - size) for size in range(space.k - 1)) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        kept: list[RemovedSet] = [()]
        for size in range(1, space.k + 1):
            sets = tuple(sorted({new for s in kept for new in longer(space, s)}))
            if not sets:
                raise dead_end(space, kept)
            width = 1 if size == space.k else min(self.width, len(sets))
            kept = ranked(sets, (yield Ask(sets, keep=width)))[:width]
        return kept[0]
