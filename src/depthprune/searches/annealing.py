"""Annealing: random swaps, worse ones accepted while it is hot."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import random_swap
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    Space,
)
from depthprune.searches.common.single_losses import (
    lowest,
    single_losses,
    spread,
)


@dataclass(frozen=True)
class Annealing(Method):
    """Simulated annealing over swaps, from one-shot's set.

    A swap that raises the loss by d is accepted with chance exp(−d/T). T falls geometrically, from
    a share of the spread of the single losses, which is the scale on which blocks differ, to a
    hundredth of that. A set met again is not scored again.

    Source: Kirkpatrick, Gelatt and Vecchi (Science 1983); no peer runs it.

    Attributes:
        steps: Swaps tried.
        heat: T at the start, in standard deviations of the single losses.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    heat: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5

    method: ClassVar[str] = "annealing"
    summary: ClassVar[str] = "random swaps, worse ones accepted while it is hot; steps=, heat="

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return len(space.free) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        prior = yield from single_losses(space)
        current = lowest(space, prior)
        (score,) = yield Ask((current,), keep=1)
        known = {current: score.loss}
        hot = self.heat * spread(prior)
        for step in range(self.steps):
            new = random_swap(space, current, rng)
            if new not in known:
                (score,) = yield Ask((new,), keep=1)
                known[new] = score.loss
            temperature = hot * 0.01 ** (step / self.steps)
            if _accepted(known[new], known[current], temperature, rng):
                current = new
        return min(known, key=lambda s: (known[s], s))


def _accepted(new: float, old: float, temperature: float, rng: random.Random) -> bool:
    if new <= old:
        return True
    if not temperature or not math.isfinite(new):
        return False
    return rng.random() < math.exp(-(new - old) / temperature)
