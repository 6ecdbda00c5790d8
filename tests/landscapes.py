"""Planted landscapes: scorers whose losses are a formula, so that the best set is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.evaluator.score import Weighting, score_of

_ONE_WINDOW = Weighting(np.zeros(1, dtype=np.int64), (1.0,), np.asarray([10]))


class Landscape:
    """A scorer that computes `loss(removed)`, remembers, and counts as the evaluator does.

    Attributes:
        blocks: Number of blocks.
        asked: Every non-empty set in the order it was first scored.
    """

    def __init__(self, blocks: int, loss: Callable[[RemovedSet], float]) -> None:
        self.blocks = blocks
        self.asked: list[RemovedSet] = []
        self._loss = loss
        self._known: dict[RemovedSet, Score] = {}

    @property
    def cost(self) -> Cost:
        """A block-token for each block kept by each set that was scored."""
        return Cost(
            evaluations=len(self.asked),
            block_tokens=sum(self.blocks - len(removed) for removed in self._known),
        )

    def score(self, removed: Iterable[Sequence[int]]) -> list[Score]:
        """Scores of the sets, in the order given."""
        sets = [tuple(each) for each in removed]
        for each in sets:
            if each not in self._known:
                self._known[each] = score_of(each, np.asarray([self._loss(each)]), _ONE_WINDOW)
                self.asked += [each] if each else []
        return [self._known[each] for each in sets]

    def compare(self, removed: Iterable[Sequence[int]], keep: int) -> list[Score]:
        """Exact scores: a formula need not race."""
        return self.score([(), *removed])[1:]


def additive(damage: Sequence[float]) -> Landscape:
    """Each block's removal costs its own damage, whatever else is removed."""
    return Landscape(len(damage), lambda removed: 1.0 + math.fsum(damage[b] for b in removed))


def table(blocks: int, losses: dict[RemovedSet, float], otherwise: float = 9.0) -> Landscape:
    """Sets named in the table have its loss, all others `otherwise`."""
    return Landscape(blocks, lambda removed: losses.get(removed, otherwise))
