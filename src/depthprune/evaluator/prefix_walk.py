"""The prefix walk: many removed sets through the blocks, every shared part computed once.

Two sets that agree on which blocks below `i` are removed have the same hidden states before block
`i`. The sets are walked together, block by block; a state is kept for each distinct prefix of
removals, and a block is run once for each prefix that keeps it. The block runs spent are thus the
number of distinct (prefix, block) pairs, which no exact evaluation can undercut. A removed block
costs nothing: its prefix shares the tensor of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
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
        waiting = _behind(block, waiting, advance)
    while waiting:
        prefix, (state, _) = waiting.popitem()
        yield prefix, state


def _behind(
    block: int,
    waiting: Mapping[RemovedSet, tuple[State, list[RemovedSet]]],
    advance: Callable[[int, list[State]], list[State]],
) -> dict[RemovedSet, tuple[State, list[RemovedSet]]]:
    """The states behind a block, and the sets that go on from each."""
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
    return following


def block_runs(sets: Iterable[RemovedSet], blocks: int) -> int:
    """Block runs that `walk` spends on these sets: the distinct (prefix, block) pairs."""
    return sum(run for _, run in _fronts(sets, blocks))


def widest(sets: Iterable[RemovedSet], blocks: int) -> int:
    """The most states that there are at once while these sets are walked.

    They are those before a block, those behind it, and the one before the first block, which stays
    for further walks.
    """
    fronts = enumerate(_fronts(sets, blocks))
    return max((before + run + (block > 0) for block, (before, run) in fronts), default=0)


def _fronts(sets: Iterable[RemovedSet], blocks: int) -> Iterator[tuple[int, int]]:
    """For each block, the states before it and those of them that it is run on."""
    ordered = in_order(set(sets), blocks)
    parts = [parting(a, b, blocks) for a, b in pairwise(ordered)]
    for block in range(blocks if ordered else 0):
        # Of those that share a state the last keeps the block, if any of them does.
        last = [s for s, part in zip(ordered, parts, strict=False) if part < block] + ordered[-1:]
        yield len(last), sum(block not in s for s in last)


def parting(one: RemovedSet, other: RemovedSet, blocks: int) -> int:
    """The first block that one set keeps and the other has removed; of equal sets, behind all."""
    pairs = zip((*one, blocks), (*other, blocks), strict=False)
    return min(next(((a, b) for a, b in pairs if a != b), (blocks,)))


def in_order(sets: Iterable[RemovedSet], blocks: int) -> list[RemovedSet]:
    """Sets in the order in which one comes by all prefixes depth first.

    Those that part latest stand beside each other. A set that ends keeps all further blocks, and so
    stands behind those that remove one of them.
    """
    return sorted(sets, key=lambda removed: (*removed, blocks))


def split_to_fit(
    sets: Sequence[RemovedSet], blocks: int, limit: int, beside: Sequence[RemovedSet] = ()
) -> list[list[RemovedSet]]:
    """Divide sets into walks that each hold at most `limit` states.

    Neighbours share the longest prefixes, so the cut costs few block runs. A single set is never
    divided.

    Args:
        sets: Distinct sorted sets.
        blocks: Number of blocks.
        limit: See `widest`.
        beside: Other sets, which each walk begins with.
    """
    ordered = in_order(sets, blocks)
    together = [*beside, *ordered]
    if len(ordered) <= 1 or widest(together, blocks) <= limit:
        return [together] if together else []
    half = len(ordered) // 2
    return [
        *split_to_fit(ordered[:half], blocks, limit, beside),
        *split_to_fit(ordered[half:], blocks, limit, beside),
    ]
