"""Moves between removed sets that the space allows, and picking the best of many."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from depthprune.searches.common.protocol import (
    Ask,
    DeadEndError,
    Loss,
    RemovedSet,
    Space,
)

_ASK = 256
"""Sets that are asked for at once: enough to share prefixes, few enough to be raced."""

_TRIES = 100
"""Draws until one is allowed. Where most are refused, one is put together block by block."""


def with_block(removed: RemovedSet, block: int) -> RemovedSet:
    """A set and one block more."""
    return tuple(sorted((*removed, block)))


def longer(space: Space, removed: RemovedSet) -> list[RemovedSet]:
    """Every allowed set that is this one and one block more, by that block's number."""
    return space.allowed(with_block(removed, b) for b in space.free if b not in removed)


def grown(space: Space, order: Iterable[int]) -> Iterator[RemovedSet]:
    """Sets of sizes 1 to k, each the last one and the first block in an order that may go with it.

    Raises:
        DeadEndError: If no other block may.
    """
    removed: RemovedSet = ()
    left = list(order)
    for _ in range(space.k):
        block = next((b for b in left if space.allows(with_block(removed, b))), None)
        if block is None:
            raise dead_end(space, [removed])
        left.remove(block)
        removed = with_block(removed, block)
        yield removed


def first_in(space: Space, order: Iterable[int]) -> RemovedSet:
    """The set of size k that `grown` comes to."""
    return list(grown(space, order))[-1]


def dead_end(space: Space, sets: Sequence[RemovedSet]) -> DeadEndError:
    """The error where none of these sets can grow; it has the reason of one of them."""
    removed = sets[0]
    refused = (with_block(removed, b) for b in space.free if b not in removed)
    why = next(filter(None, map(space.refusal, refused)), "there is no further block that may go")
    return DeadEndError(
        f"-k {space.k}: without {', '.join(map(str, removed))} no further block can go ({why}); "
        "lower -k, or take another search"
    )


def swapped(removed: RemovedSet, out: int, into: int) -> RemovedSet:
    """A set with one of its blocks replaced by another."""
    return tuple(sorted(into if block == out else block for block in removed))


def swaps(space: Space, removed: RemovedSet) -> list[RemovedSet]:
    """Every allowed set that differs from this one in a single block: up to k(N − k), sorted."""
    others = [block for block in space.free if block not in removed]
    return space.allowed(sorted(swapped(removed, out, into) for out in removed for into in others))


def random_swap(space: Space, removed: RemovedSet, rng: random.Random) -> RemovedSet:
    """One of `swaps`; the set itself where there is none."""
    others = [block for block in space.free if block not in removed]
    for _ in range(_TRIES if others else 0):
        new = swapped(removed, rng.choice(removed), rng.choice(others))
        if space.allows(new):
            return new
    left = swaps(space, removed)
    return rng.choice(left) if left else removed


def random_set(space: Space, rng: random.Random) -> RemovedSet:
    """Any allowed set of k free blocks, each as likely unless nearly all are refused."""
    for _ in range(_TRIES):
        removed = tuple(sorted(rng.sample(space.free, space.k)))
        if space.allows(removed):
            return removed
    return first_in(space, rng.sample(space.free, len(space.free)))


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
