"""The prefix walk: many removed sets through the blocks, every shared part computed once.

Two sets that agree on which blocks below `i` are removed have the same hidden states before block
`i`. The sets are walked together, block by block; a state is kept for each distinct prefix of
removals, and a block is run once for each prefix that keeps it. The block runs spent are thus the
number of distinct (prefix, block) pairs, which no exact evaluation can undercut. A removed block
costs nothing: its prefix shares the tensor of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

RemovedSet = tuple[int, ...]
State = TypeVar("State")


def walk(
    sets: Iterable[RemovedSet],
    blocks: int,
    start: State,
    advance: Callable[[int, list[State]], list[State]],
) -> Iterator[tuple[RemovedSet, State]]:
    """Walk removed sets through the blocks.

    Args:
        sets: Distinct sorted sets.
        blocks: Number of blocks.
        start: The state before block 0.
        advance: Runs a block on several states; one answer each, in order.

    Yields:
        Each set with the state behind the last block. A state is let go once yielded.
    """
    waiting: dict[RemovedSet, tuple[State, list[RemovedSet]]] = {(): (start, list(sets))}
    for block in range(blocks):
        kept = [p for p, (_, members) in waiting.items() if any(block not in s for s in members)]
        answers = dict(zip(kept, advance(block, [waiting[p][0] for p in kept]), strict=True))
        following: dict[RemovedSet, tuple[State, list[RemovedSet]]] = {}
        for prefix, (state, members) in waiting.items():
            keeping = [s for s in members if block not in s]
            dropping = [s for s in members if block in s]
            if keeping:
                following[prefix] = (answers[prefix], keeping)
            if dropping:
                shorter = (*prefix, block)
                following[shorter] = (state, dropping)
        waiting = following
    while waiting:
        prefix, (state, _) = waiting.popitem()
        yield prefix, state


def block_runs(sets: Iterable[RemovedSet], blocks: int) -> int:
    """Block runs that `walk` spends on these sets: the distinct (prefix, block) pairs."""
    return sum(len(prefixes) for prefixes in _prefixes(sets, blocks))


def widest(sets: Iterable[RemovedSet], blocks: int) -> int:
    """The most states that `walk` holds at once on these sets."""
    members = list(sets)
    fronts = (len({tuple(b for b in s if b < i) for s in members}) for i in range(blocks + 1))
    return max(fronts, default=0)


def _prefixes(sets: Iterable[RemovedSet], blocks: int) -> Iterator[set[RemovedSet]]:
    members = list(sets)
    for block in range(blocks):
        yield {tuple(b for b in s if b < block) for s in members if block not in s}


def in_order(sets: Iterable[RemovedSet], blocks: int) -> list[RemovedSet]:
    """Sets in the order in which one comes by all prefixes depth first.

    Those that part latest stand beside each other. A set that ends keeps all further blocks, and so
    stands behind those that remove one of them.
    """
    return sorted(sets, key=lambda removed: (*removed, blocks))


def split_to_fit(sets: Sequence[RemovedSet], blocks: int, limit: int) -> list[list[RemovedSet]]:
    """Divide sets into walks that each hold at most `limit` states.

    Neighbours share the longest prefixes, so the cut costs few block runs. A single set is never
    divided.
    """
    ordered = in_order(sets, blocks)
    if len(ordered) <= 1 or widest(ordered, blocks) <= limit:
        return [ordered] if ordered else []
    half = len(ordered) // 2
    return [
        *split_to_fit(ordered[:half], blocks, limit),
        *split_to_fit(ordered[half:], blocks, limit),
    ]
