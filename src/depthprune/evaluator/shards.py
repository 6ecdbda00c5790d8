"""Cutting what is to be scored into shards for several workers.

Batches of windows share nothing, so a cut between them costs nothing; a cut among removed sets
costs the block runs of the prefixes that both sides then walk. Neighbours in the order of the walk
share the longest prefixes, so sets are cut there, where the sides are equally dear. Which of the
two, or both, is chosen by what the busiest worker would have to do.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from depthprune.calibration import Window
from depthprune.evaluator.prefix_walk import RemovedSet, block_runs, in_order, parting
from depthprune.evaluator.score import LossArray
from depthprune.objectives import Mixture


@dataclass(frozen=True)
class Scoring:
    """What all shards of an evaluator have in common.

    Attributes:
        windows: All windows of the calibration, as tokens.
        objective: What judges them.
        memory: Bytes that hidden states may take; None for a share of what the worker has free.
        products: Whether attention is computed by products.
        batch_tokens: Up to how many tokens share a call.
        key: Names all of the above.
    """

    windows: Sequence[Window] = field(repr=False)
    objective: Mixture
    memory: int | None
    products: bool
    batch_tokens: int
    key: str


@dataclass(frozen=True)
class Work:
    """Batches that are run one behind the other, or together where blocks are read from disk.

    Attributes:
        calls: The windows of each batch.
        tokens: Of all of them.
        sets: What is walked on them.
    """

    calls: tuple[tuple[int, ...], ...]
    tokens: int
    sets: Sequence[RemovedSet]


@dataclass(frozen=True)
class Shard:
    """Some sets on some batches of windows.

    Attributes:
        calls: The windows of each batch, as many as fill the call.
        sets: The sets.
        cost: Block runs of walking them, times tokens.
    """

    calls: tuple[tuple[int, ...], ...]
    sets: tuple[RemovedSet, ...]
    cost: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Scored:
    """What a worker answers to a shard.

    Attributes:
        losses: For each batch, by set, shape (components, windows of the batch).
        shapes: For each batch, the call in which each window was run.
        block_tokens: Spent.
        head_tokens: Spent.
        too_large: Windows whose shared call did not fit in memory; then there are no losses.
    """

    losses: tuple[Mapping[RemovedSet, LossArray], ...] = ()
    shapes: tuple[tuple[str, ...], ...] = ()
    block_tokens: int = 0
    head_tokens: int = 0
    too_large: tuple[int, ...] = ()


class LossWorkers(Protocol):
    """Workers that each hold the model, and score shards of it."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def rounds(self) -> str:
        """The arithmetic that all of them compute with."""

    def score(
        self,
        scoring: Scoring,
        shrunk: Sequence[tuple[int, ...]],
        shards: Sequence[Shard],
    ) -> Iterator[tuple[Shard, Scored]]:
        """Score shards, each answered once, in the order in which they end.

        Args:
            scoring: What they have in common.
            shrunk: Windows whose shared calls were halved so far, in order.
            shards: The shards.
        """


def cut_sets(sets: Sequence[RemovedSet], blocks: int, parts: int) -> list[list[RemovedSet]]:
    """Cut sets into parts that are about equally dear to walk, each of neighbours.

    Args:
        sets: Distinct sorted sets.
        blocks: Of the model.
        parts: How many, at most.

    Returns:
        Between 1 and `parts` parts that are not empty.
    """
    ordered = in_order(sets, blocks)
    parts = min(parts, len(ordered))
    if parts <= 1:
        return [ordered]
    # A part pays its first set's whole way, and of each further one what no neighbour walked.
    whole = [blocks - len(each) for each in ordered]
    steps = [0] + [_beyond(a, b, blocks) for a, b in itertools.pairwise(ordered)]
    low, high = max(whole), whole[0] + sum(steps)
    while low < high:
        middle = (low + high) // 2
        if len(_packed(ordered, whole, steps, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    return _packed(ordered, whole, steps, low)


def _beyond(before: RemovedSet, after: RemovedSet, blocks: int) -> int:
    """Block runs that a set adds behind its neighbour: those above where the two part."""
    return sum(block not in after for block in range(parting(before, after, blocks), blocks))


def _packed(
    ordered: Sequence[RemovedSet], whole: Sequence[int], steps: Sequence[int], most: int
) -> list[list[RemovedSet]]:
    parts: list[list[RemovedSet]] = []
    spent = most + 1
    for each, alone, more in zip(ordered, whole, steps, strict=True):
        if spent + more > most:
            parts.append([])
            spent = alone
        else:
            spent += more
        parts[-1].append(each)
    return parts


def cut(
    work: Sequence[Work],
    blocks: int,
    workers: int,
    *,
    compares: bool = False,
) -> list[Shard]:
    """Cut batches and their sets such that the busiest of some workers has the least to do.

    Args:
        work: Batches that stand together, and the sets that are walked on them.
        blocks: Of the model.
        workers: How many share the work.
        compares: Whether the dense model is walked beside each shard's sets.

    Returns:
        Shards, the dearest first.
    """
    best: tuple[int, int, list[Shard]] | None = None
    for parts in sorted({1, *(-(-workers // n) for n in range(1, workers + 1))}):
        shards = [
            Shard(each.calls, tuple(few), each.tokens * _runs(few, blocks, compares))
            for each in work
            for few in cut_sets(list(dict.fromkeys(each.sets)), blocks, parts)
        ]
        shards.sort(key=lambda shard: -shard.cost)
        found = (_longest(shards, workers), sum(s.cost for s in shards), shards)
        if best is None or found[:2] < best[:2]:
            best = found
    return best[2] if best is not None else []


def _runs(sets: Sequence[RemovedSet], blocks: int, compares: bool) -> int:
    return block_runs(dict.fromkeys([(), *sets] if compares else sets), blocks)


def _longest(shards: Sequence[Shard], workers: int) -> int:
    """What the busiest worker does, where each takes the next shard when it is free."""
    busy = [0] * workers
    for shard in shards:
        heapq.heapreplace(busy, busy[0] + shard.cost)
    return max(busy)
