"""Local search: from a start, the best swap of one block, until none improves."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import random_set, swaps
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import lowest, single_losses

Start = Literal["one-shot", "random"]


@dataclass(frozen=True)
class LocalSearch(Method):
    """Steepest descent over swaps; it ends at a set that no single swap is seen to improve.

    A set scored in an earlier sweep was no better than what that sweep chose, so it is not asked
    for again.

    Source: the standard local search for subsets of fixed size; no peer runs it.

    Attributes:
        start: `one-shot`'s set, or a `random` one.
        sweeps: At most so many; 0 is until none improves.
    """

    start: Start = "one-shot"
    sweeps: Annotated[int, Field(ge=0)] = 0

    method: ClassVar[str] = "local-search"
    summary: ClassVar[str] = (
        "the best swap of one block until none improves; k(N−k) evaluations a sweep; "
        "start=one-shot|random, sweeps="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return 1 if self.start == "random" else len(space.free) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`. Of equal sets the current one stays."""
        if self.start == "random":
            current = random_set(space, rng)
        else:
            current = lowest(space, (yield from single_losses(space)))
        seen = {current}
        sweep = 0
        while not self.sweeps or sweep < self.sweeps:
            sweep += 1
            new = [s for s in swaps(space, current) if s not in seen]
            if not new:
                break
            seen.update(new)
            sets = (current, *new)
            scores = yield Ask(sets, keep=1)
            chosen = _best(sets, [score.loss for score in scores])
            if chosen == current:
                break
            current = chosen
        return current


def _best(sets: tuple[RemovedSet, ...], losses: list[float]) -> RemovedSet:
    """The lowest; the first set wins ties, then the lower numbers."""
    return sets[min(range(len(sets)), key=lambda i: (losses[i], i > 0, sets[i]))]
