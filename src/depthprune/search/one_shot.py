"""One-shot: score each block alone, remove the k whose removal costs least."""

from __future__ import annotations

import random
from dataclasses import dataclass

from depthprune.search.protocol import Ask, Grown, Plan, RemovedSet, Space


@dataclass(frozen=True)
class OneShot:
    """The k blocks of lowest single-removal loss; ties go to the lower number.

    It takes removals as if they added up, which they do not: its error grows with k.
    Source: arXiv 2604.24938, search 1; Shortened-LLM's perplexity criterion.
    """

    name: str = "one-shot"
    summary: str = "the k blocks whose removal alone costs least; N evaluations"
    grows: bool = True

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        sets = tuple((block,) for block in space.free)
        scores = yield Ask(sets, keep=space.k)
        order = sorted(range(len(sets)), key=lambda i: (scores[i].loss, sets[i]))
        removed: RemovedSet = ()
        for place in order[: space.k]:
            removed = tuple(sorted((*removed, *sets[place])))
            if (yield Grown(removed)):
                break
        return removed
