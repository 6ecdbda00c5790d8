"""Planted landscapes: scorers whose losses are a formula, so that the best set is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.evaluator.score import Weighting, partial_score, score_of


class Landscape:
    """A scorer that computes `loss(removed)`, remembers, and counts as the evaluator does.

    Args:
        blocks: Number of blocks.
        loss: Of a set.
        windows: How many windows there are; each has the same loss, but for `noise`.
        noise: Standard deviation of a window's loss around the set's, whose mean is exact.
        values: What `measure` answers.

    Attributes:
        asked: Every non-empty set in the order it was first scored.
        calls: The sets of each ask, with the windows asked for.
    """

    def __init__(
        self,
        blocks: int,
        loss: Callable[[RemovedSet], float],
        windows: int = 1,
        noise: float = 0.0,
        values: NDArray[np.float64] | None = None,
    ) -> None:
        self.blocks = blocks
        self.windows = windows
        self.asked: list[RemovedSet] = []
        self.calls: list[tuple[tuple[RemovedSet, ...], int | None]] = []
        self.measured: list[str] = []
        self._loss = loss
        self._noise = noise
        self._values = values
        self._weighting = Weighting(
            np.zeros(windows, dtype=np.int64), (1.0,), np.full(windows, 10, dtype=np.int64)
        )
        self._seen: dict[RemovedSet, int] = {}

    @property
    def cost(self) -> Cost:
        """A block-token for each block kept by each set that was scored, on each window."""
        seen = self._seen.items()
        spent = sum((self.blocks - len(removed)) * count for removed, count in seen)
        return Cost(
            evaluations=sum(count for removed, count in seen if removed) / self.windows,
            block_tokens=spent,
            asked_block_tokens=spent,
        )

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """Scores of the sets, in the order given."""
        sets = [tuple(each) for each in removed]
        self.calls.append((tuple(sets), windows))
        count = self.windows if windows is None else windows
        assert 1 <= count <= self.windows
        for each in sets:
            if each and each not in self._seen:
                self.asked.append(each)
            self._seen[each] = max(count, self._seen.get(each, 0))
        return [self._score(each, count) for each in sets]

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Exact scores: a formula need not race."""
        return self.score([(), *removed])[1:]

    def measure(self, name: str) -> NDArray[np.float64]:
        """The planted values; without them those of the single blocks, or of windows of blocks."""
        self.measured.append(name)
        if self._values is not None:
            return self._values
        if name != "angular":
            return np.array([self._loss((b,)) for b in range(self.blocks)])
        values = np.full((self.blocks, self.blocks + 1), np.nan)
        for first in range(self.blocks):
            for count in range(1, self.blocks - first + 1):
                values[first, count] = self._loss(tuple(range(first, first + count)))
        return values

    def _score(self, removed: RemovedSet, count: int) -> Score:
        losses = np.full(self.windows, self._loss(removed))
        if self._noise:
            noise = np.random.default_rng([len(removed), *removed]).normal(size=self.windows)
            losses += self._noise * (noise - noise.mean())
        if count == self.windows:
            return score_of(removed, losses, self._weighting)
        return partial_score(removed, losses, self._weighting, range(count))


class Estimates(Landscape):
    """A landscape whose `compare` answers as a race does: only that the best come first is true."""

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Exact scores of the best; above them, in no order, the rest."""
        scores = super().compare(removed, keep, earlier)
        best = sorted(scores, key=lambda s: (s.loss, s.removed))[:keep]
        worst = best[-1].loss
        rng = random.Random(len(scores))
        return [
            s if s in best else replace(s, loss=math.nextafter(worst, math.inf) + rng.random())
            for s in scores
        ]


def additive(damage: Sequence[float]) -> Landscape:
    """Each block's removal costs its own damage, whatever else is removed."""
    return Landscape(len(damage), lambda removed: 1.0 + math.fsum(damage[b] for b in removed))


def pairwise(
    damage: Sequence[float], crossed: dict[tuple[int, int], float], **options: float
) -> Landscape:
    """As `additive`, and each pair of removed blocks costs what `crossed` says besides."""

    def loss(removed: RemovedSet) -> float:
        pairs = itertools.combinations(removed, 2)
        return 1.0 + math.fsum(
            [*(damage[b] for b in removed), *(crossed.get(p, 0.0) for p in pairs)]
        )

    return Landscape(len(damage), loss, **options)  # type: ignore[arg-type]


def rugged(blocks: int, seed: int = 0, **options: float) -> Landscape:
    """Single blocks and all pairs matter, by chance: no search's favourite."""
    rng = random.Random(seed)
    damage = [rng.random() for _ in range(blocks)]
    pairs = itertools.combinations(range(blocks), 2)
    return pairwise(damage, {p: rng.gauss(0.0, 0.2) for p in pairs}, **options)


def deceptive(blocks: int = 10) -> Landscape:
    """Block 0 is the cheapest alone and dear beside any other; the best set does without it."""
    damage = [0.1, 0.12, *([0.2] * (blocks - 2))]
    return pairwise(damage, {(0, other): 0.3 for other in range(1, blocks)})


def table(blocks: int, losses: dict[RemovedSet, float], otherwise: float = 9.0) -> Landscape:
    """Sets named in the table have its loss, all others `otherwise`."""
    return Landscape(blocks, lambda removed: losses.get(removed, otherwise))


def optimum(landscape: Landscape, k: int, protect: Sequence[int] = ()) -> tuple[RemovedSet, float]:
    """The best set of size k by trying all; ties go to the lower numbers."""
    free = [b for b in range(landscape.blocks) if b not in protect]
    losses = {s: landscape._loss(s) for s in itertools.combinations(free, k)}
    best = min(losses, key=lambda s: (losses[s] if math.isfinite(losses[s]) else math.inf, s))
    return best, losses[best]
