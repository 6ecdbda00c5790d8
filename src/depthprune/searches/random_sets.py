"""Random: the best of some sets drawn blindly. A control."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import best_of, random_set
from depthprune.searches.common.protocol import Plan, Space
from depthprune.searches.common.single_losses import distinct


@dataclass(frozen=True)
class RandomSets(Method):
    """The best of some distinct sets, each of size k as likely; all, where there are no more.

    What a search finds beyond this, at the same evaluations, is what its cleverness is worth.

    Attributes:
        samples: How many sets.
    """

    samples: Annotated[int, Field(ge=1)] = 200

    method: ClassVar[str] = "random"
    summary: ClassVar[str] = "a control: the best of some random sets; samples="

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        if math.comb(len(space.free), space.k) <= self.samples:
            return (yield from best_of(filter(space.allows, combinations(space.free, space.k))))
        return (yield from best_of(distinct(lambda: random_set(space, rng), self.samples)))
