"""Searches that rank blocks by one measurement of the dense model, and score what they chose once.

They are cheap, one pass over the calibration, and do not see that removed blocks interact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import grown
from depthprune.searches.common.protocol import (
    Ask,
    ChosenSize,
    Measure,
    Plan,
    RemovedSet,
    Space,
)


@dataclass(frozen=True)
class Ranking(Method):
    """The k blocks of lowest measured value; ties go to the lower number, NaN ranks last."""

    grows: ClassVar[bool] = True

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        values = yield Measure(self.method)
        found = {block: float(values[block]) for block in space.free}
        order = sorted(found, key=lambda b: (found[b] if math.isfinite(found[b]) else math.inf, b))
        return (yield from in_order(space, order))


def in_order(space: Space, order: Sequence[int]) -> Generator[Ask | ChosenSize, Any, RemovedSet]:
    """Grow a set by the blocks in this order that may go, up to size k, and score it."""
    removed: RemovedSet = ()
    for removed in grown(space, order):
        if (yield ChosenSize(removed)):
            break
    yield Ask((removed,), keep=1)
    return removed
