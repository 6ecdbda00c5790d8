"""ContiguousWindow: the best k blocks in a row. A control."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from depthprune.errors import UsageError
from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import best_of
from depthprune.searches.common.protocol import (
    Plan,
    RemovedSet,
    Space,
)


@dataclass(frozen=True)
class ContiguousWindow(Method):
    """Every contiguous window of k blocks that may go; the best by its loss.

    Source: AMD Quark, which scores such windows by perplexity.
    """

    method: ClassVar[str] = "window"
    summary: ClassVar[str] = "a control: the best k blocks in a row; N − k + 1 evaluations"

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        windows(space, self.method)
        return 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        return (yield from best_of(windows(space, self.method)))


def windows(space: Space, method: str) -> list[RemovedSet]:
    """The contiguous windows of k blocks that may go, in order.

    Raises:
        UsageError: If there are none.
    """
    free = set(space.free)
    runs = [tuple(range(first, first + space.k)) for first in space.free]
    inside = [run for run in runs if free.issuperset(run)]
    found = space.allowed(inside)
    if found:
        return found
    why = space.refusal(inside[0]) if inside else "protected blocks leave none"
    raise UsageError(
        f"search {method}: expected {space.k} blocks in a row that may go, and there are none "
        f"({why}); protect fewer, lower -k, or take another search"
    )
