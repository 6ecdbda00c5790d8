"""Fast-block-select: sets put together from contiguous groups that were scored as groups."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import first_in
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import (
    Prior,
    by_loss,
    lowest,
)


@dataclass(frozen=True)
class FastBlockSelect(Method):
    """Choose groups of neighbouring blocks whose own increases add up to the least.

    The pool is the current set and its alternatives, the cheapest blocks outside it. Of each
    length, the contiguous groups in the pool are ranked by the sum of their single losses, and the
    best few are scored as one. Of all groups scored so far, those that do not overlap, hold k
    blocks together and have the least sum of increases make the next set; and so on until it does
    not change. The best of these sets and of the groups of k blocks is returned, by its own loss.

    Source: MI-PRUN's Fast-Block-Select (arXiv 2601.07212), by the loss in place of mutual
    information as in arXiv 2604.24938, search 7. What counts as an alternative both leave open.

    Attributes:
        groups: How many groups of each length are scored in an iteration.
        alternatives: Blocks outside the current set that are in the pool; 0 is as many as go.
        iterations: At most so many.
    """

    groups: Annotated[int, Field(ge=2)] = 5
    alternatives: Annotated[int, Field(ge=0)] = 0
    iterations: Annotated[int, Field(ge=1)] = 10

    method: ClassVar[str] = "fast-block-select"
    summary: ClassVar[str] = (
        "sets put together from contiguous groups; groups=, alternatives=, iterations="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return len(space.free) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        sets: tuple[RemovedSet, ...] = ((), *((block,) for block in space.free))
        dense, *singles = yield Ask(sets, keep=len(sets))
        prior = {b: score.loss for b, score in zip(space.free, singles, strict=True)}
        increase: dict[RemovedSet, float] = {(b,): loss - dense.loss for b, loss in prior.items()}
        current = lowest(space, prior)
        (score,) = yield Ask((current,), keep=1)
        met, whole = {current: score.loss}, dict[RemovedSet, float]()
        for _ in range(self.iterations):
            groups = self._groups(space, prior, current)
            increase |= {g: met[g] - dense.loss for g in groups if g in met}
            new = [g for g in groups if g not in increase]
            if new:
                scores = yield Ask(tuple(new), keep=len(new))
                increase |= {g: s.loss - dense.loss for g, s in zip(new, scores, strict=True)}
                whole |= {g: s.loss for g, s in zip(new, scores, strict=True) if len(g) == space.k}
            # A cover that may not go as a whole is completed with the cheapest blocks.
            cover = cheapest_cover(increase, space.k)
            order = dict.fromkeys([*cover, *by_loss(prior)])
            current = cover if space.allows(cover) else first_in(space, order)
            if current in met:
                break
            if current in increase:
                met[current] = increase[current] + dense.loss
                continue
            (score,) = yield Ask((current,), keep=1)
            met[current] = score.loss
        met |= whole
        return min(met, key=lambda s: (met[s], s))

    def _groups(self, space: Space, prior: Prior, current: RemovedSet) -> list[RemovedSet]:
        """The groups to be scored: of each length the best few by their single losses."""
        outside = {b: loss for b, loss in prior.items() if b not in current}
        pool = {*current, *by_loss(outside)[: self.alternatives or space.k]}
        chosen: list[RemovedSet] = []
        for length in range(2, space.k + 1):
            runs = [tuple(range(b, b + length)) for b in sorted(pool)]
            inside = space.allowed(run for run in runs if pool.issuperset(run))
            inside.sort(key=lambda run: (sum(prior[b] for b in run), run))
            chosen += inside[: self.groups]
        return chosen


def cheapest_cover(increase: Mapping[RemovedSet, float], k: int) -> RemovedSet:
    """The groups that do not overlap, hold k blocks together, and have the least sum.

    Args:
        increase: Contiguous groups, every block alone among them, and what each costs.
        k: How many blocks.
    """
    by_end: dict[int, list[RemovedSet]] = {}
    for group in increase:
        by_end.setdefault(group[-1], []).append(group)
    # best[size]: the least sum of groups that end before the block at hand.
    best: list[tuple[float, RemovedSet]] = [(0.0, ()), *[(float("inf"), ())] * k]
    before = {-1: best}
    for block in range(max(by_end) + 1):
        here = list(before[block - 1])
        for group in by_end.get(block, ()):
            for size in range(len(group), k + 1):
                cost, chosen = before[group[0] - 1][size - len(group)]
                if len(chosen) == size - len(group):
                    here[size] = _lower(here[size], (cost + increase[group], chosen + group), size)
        before[block] = here
    return before[max(by_end)][k][1]


def _lower(
    old: tuple[float, RemovedSet], new: tuple[float, RemovedSet], size: int
) -> tuple[float, RemovedSet]:
    """The lower of two; a set of the size, whatever it costs, is better than none."""
    return new if len(old[1]) != size else min(old, new)
