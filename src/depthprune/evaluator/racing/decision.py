"""Which candidates are surely among the k best, and which surely not.

"Surely" means that the difference of two candidates, taken window by window, is beyond its
confidence radius (`bounds`); a difference within the tolerance is a tie and needs no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.racing.bounds import Bound
from depthprune.evaluator.racing.differences import Earlier, Strata, differences, pooled

Array = NDArray[np.float64]

_REFERENCES = 2
"""Of how many more candidates than are wanted the variances are pooled: who beats others is among
the best."""


@dataclass(frozen=True)
class Decision:
    """What a round decides of the candidates still in the race.

    Attributes:
        kept: Which are surely among the wanted.
        dropped: Which are surely not.
    """

    kept: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


def decide(
    losses: Array,
    strata: Strata,
    wanted: int,
    bound: Bound,
    chances: Array,
    tie: float,
    *,
    pool: bool = False,
    earlier: Earlier | None = None,
) -> Decision:
    """Which candidates are surely in, or surely out.

    Args:
        losses: Of the candidates still in the race on the windows seen, shape (n, m), finite.
        strata: How those windows make a loss.
        wanted: How many of them are wanted, from 1 to n − 1.
        bound: How far differences can be from what they seem.
        chances: With which each candidate may beat another wrongly, shape (n,).
        tie: Differences of the losses up to this are ties, which the lower mean decides; below 0,
            no candidate beats another that is not surely worse by more than its size.
        pool: Whether candidates help out with each other's variances; a strict bound knows better.
        earlier: What is known of their predecessors; likewise.
    """
    found = differences(losses, strata, earlier if bound.estimated else None)
    order = np.argsort(found.means, kind="stable")
    if pool and bound.estimated:
        found = pooled(found, order[: wanted + _REFERENCES].tolist(), tie)
    # margin[i, j] > 0: i is surely no worse than j by more than a tie.
    margin = (
        found.values + tie - bound.radius(found.errors, found.freedom, strata, chances[:, None])
    )
    beats = margin > 0
    # Of two that tie both may "beat" the other; the lower mean decides, then the order.
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    beats &= rank[:, None] < rank[None, :]
    return Decision(kept=beats.sum(1) >= len(order) - wanted, dropped=beats.sum(0) >= wanted)
