"""Exhaustive: every set of size k. The ground truth where it can be had."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.errors import UsageError
from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import best_of
from depthprune.searches.common.protocol import Plan, Space


@dataclass(frozen=True)
class Exhaustive(Method):
    """All C(N, k) sets, in lexicographic order, in which neighbours share the most blocks.

    Attributes:
        limit: More sets than this are refused.
    """

    limit: Annotated[int, Field(ge=1)] = 20_000

    method: ClassVar[str] = "exhaustive"
    summary: ClassVar[str] = "every set of size k, for small C(N, k); limit="

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        count = math.comb(len(space.free), space.k)
        if count > self.limit:
            raise UsageError(
                f"search exhaustive: there are {count:,} sets of {space.k} of {len(space.free)} "
                f"blocks, and the limit is {self.limit:,}; lower -k, protect more, or give "
                f"exhaustive:limit={count}"
            )
        return 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        self.least(space)
        return (yield from best_of(filter(space.allows, combinations(space.free, space.k))))
