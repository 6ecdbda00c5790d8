"""Moves between removed sets of one size, and picking the best of many."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import Any

from depthprune.search.protocol import Ask, Loss, RemovedSet, Space

_ASK = 256
"""Sets that are asked for at once: enough to share prefixes, few enough to be raced."""


def with_block(removed: RemovedSet, block: int) -> RemovedSet:
    """A set and one block more."""
    return tuple(sorted((*removed, block)))


def swapped(removed: RemovedSet, out: int, into: int) -> RemovedSet:
    """A set with one of its blocks replaced by another."""
    return tuple(sorted(into if block == out else block for block in removed))


def swaps(space: Space, removed: RemovedSet) -> list[RemovedSet]:
    """Every set that differs from this one in a single block: k(N − k) of them, sorted."""
    others = [block for block in space.free if block not in removed]
    return sorted(swapped(removed, out, into) for out in removed for into in others)


def random_swap(space: Space, removed: RemovedSet, rng: random.Random) -> RemovedSet:
    """One of `swaps`; the set itself where nothing else is left to take."""
    others = [block for block in space.free if block not in removed]
    if not others:
        return removed
    return swapped(removed, rng.choice(removed), rng.choice(others))


def random_set(space: Space, rng: random.Random) -> RemovedSet:
    """Any set of k free blocks, each as likely."""
    return tuple(sorted(rng.sample(space.free, space.k)))


def ranked(sets: Sequence[RemovedSet], scores: Sequence[Loss]) -> list[RemovedSet]:
    """Sets by their losses, the lowest first; ties go to the lower numbers."""
    losses = [score.loss for score in scores]
    return [s for _, s in sorted(zip(losses, sets, strict=True))]


def best_of(sets: Iterable[RemovedSet]) -> Generator[Ask, Any, RemovedSet]:
    """Ask for many sets, part by part, the best so far among each part; return the best.

    A race scores each part on windows of its own choosing, so the best so far is scored beside it.
    """
    left = iter(sets)
    best: tuple[RemovedSet, ...] = ()
    while part := tuple(islice(left, _ASK)):
        asked = (*best, *part)
        best = (ranked(asked, (yield Ask(asked, keep=1)))[0],)
    return best[0]
