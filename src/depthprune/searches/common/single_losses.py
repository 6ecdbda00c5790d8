"""The prior: what removing each block alone costs, and sets drawn by it.

Searches that start from it ask for the same N sets, exactly, since they use the losses as numbers;
on one evaluator they are paid for once.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeAlias

from depthprune.searches.common.moves import first_in
from depthprune.searches.common.protocol import (
    Ask,
    RemovedSet,
    Space,
)

Prior: TypeAlias = Mapping[int, float]
"""The loss without each free block alone; infinite where it could not be computed."""


def single_losses(space: Space) -> Generator[Ask, Any, dict[int, float]]:
    """Ask for the loss of removing each free block alone."""
    scores = yield Ask(tuple((block,) for block in space.free), keep=len(space.free))
    return {block: score.loss for block, score in zip(space.free, scores, strict=True)}


def by_loss(prior: Prior) -> list[int]:
    """The blocks by what their removal alone costs, the least first; ties by number."""
    return sorted(prior, key=lambda block: (prior[block], block))


def lowest(space: Space, prior: Prior) -> RemovedSet:
    """One-shot's set: the k blocks whose removal alone costs least, of those that may go together.

    Raises:
        DeadEndError: If there are not k of them.
    """
    return first_in(space, by_loss(prior))


def spread(prior: Prior) -> float:
    """Standard deviation of the losses that are finite."""
    finite = [loss for loss in prior.values() if math.isfinite(loss)]
    return statistics.pstdev(finite) if finite else 0.0


def log_weights(prior: Prior, temperature: float) -> dict[int, float]:
    """−z/τ for each block, z its standard score; −∞ for a loss that is not finite."""
    finite = [loss for loss in prior.values() if math.isfinite(loss)]
    mean, scale = statistics.fmean(finite or [0.0]), (spread(prior) or 1.0) * temperature
    return {
        block: (mean - loss) / scale if math.isfinite(loss) else -math.inf
        for block, loss in prior.items()
    }


def draw(space: Space, weights: Mapping[int, float], rng: random.Random) -> RemovedSet:
    """Draw k blocks one after the other, each in proportion to its weight among those left.

    A block of no weight is drawn only where no other is left, and one that may not go beside those
    before it is passed over.

    Args:
        space: What may be removed.
        weights: Their logarithms, by block.
        rng: Source of chance.

    Raises:
        DeadEndError: If there are not k blocks that may go together.
    """
    # The k largest of log-weights with Gumbel noise are such a draw.
    noise = {b: -math.log(-math.log(rng.random() or math.ulp(0.0))) for b in weights}
    order = sorted(
        weights, key=lambda b: (math.isinf(weights[b]), -weights[b] - noise[b], -noise[b])
    )
    return first_in(space, order)


def distinct(
    make: Callable[[], RemovedSet],
    count: int,
    known: Iterable[RemovedSet] = (),
    attempts: int = 50,
) -> list[RemovedSet]:
    """Sets from `make` that are new, as many as come of a bounded number of calls.

    Args:
        make: Gives a set, by chance.
        count: How many are wanted.
        known: Sets that are not new.
        attempts: Calls for each set wanted.
    """
    seen = set(known)
    found: list[RemovedSet] = []
    for _ in range(attempts * count):
        if len(found) == count:
            break
        new = make()
        if new not in seen:
            seen.add(new)
            found.append(new)
    return found
