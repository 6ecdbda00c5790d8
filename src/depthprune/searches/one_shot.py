"""One-shot: score each block alone, remove the k whose removal costs least."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import grown, ranked
from depthprune.searches.common.protocol import (
    Ask,
    ChosenSize,
    Plan,
    RemovedSet,
    Space,
)


@dataclass(frozen=True)
class OneShot(Method):
    """The k blocks of lowest single-removal loss; ties go to the lower number.

    A block that may not go beside those before it is passed over for the next.
    It takes removals as if they added up, which they do not: its error grows with k.
    Source: arXiv 2604.24938, search 1; Shortened-LLM's perplexity criterion.
    """

    method: ClassVar[str] = "one-shot"
    summary: ClassVar[str] = "the k blocks whose removal alone costs least; N evaluations"
    grows: ClassVar[bool] = True

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return len(space.free)

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        sets = tuple((block,) for block in space.free)
        scores = yield Ask(sets, keep=space.k)
        removed: RemovedSet = ()
        for removed in grown(space, [block for (block,) in ranked(sets, scores)]):
            if (yield ChosenSize(removed)):
                break
        return removed
