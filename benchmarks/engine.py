"""What a cut costs: block runs of searches on several workers, over those on one, by count alone.

    python benchmarks/engine.py

Searches that remove 8 of 32 blocks, on a planted landscape. "one batch" cuts every ask among its
sets, which is the worst case; "8 batches" is a calibration of eight calls, of which each worker
takes some whole as far as they go. "share" is what the busiest worker runs of what one runs alone:
1/workers is the best there can be.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from depthprune.evaluator.prefix_walk import RemovedSet, block_runs
from depthprune.evaluator.shards import Shard, Work, cut
from depthprune.searches import make_search
from depthprune.searches.common.protocol import Ask, Space

WORKERS = (1, 2, 4, 8, 16, 64)


def asks(name: str, blocks: int, k: int, seed: int) -> list[list[RemovedSet]]:
    """What a search asks for, each set once: each block has its own loss, and pairs add theirs."""
    rng = np.random.default_rng(seed)
    alone, pairs = rng.gamma(2.0, 0.1, blocks), rng.gamma(1.0, 0.02, (blocks, blocks))

    def loss(removed: RemovedSet) -> float:
        together = sum(pairs[a, b] for a, b in itertools.combinations(removed, 2))
        return float(alone[list(removed)].sum() + together)

    plan = make_search(name).plan(Space(blocks, k, tuple(range(blocks))), random.Random(seed))
    found: list[list[RemovedSet]] = []
    known: set[RemovedSet] = set()
    answer: Any = None
    while True:
        try:
            wish = plan.send(answer)
        except StopIteration:
            return found
        answer = False
        if isinstance(wish, Ask):
            new = [removed for removed in wish.sets if removed not in known]
            known.update(new)
            if new:
                found.append(new)
            answer = [SimpleNamespace(loss=loss(removed)) for removed in wish.sets]


def busiest(shards: list[Shard], workers: int) -> int:
    """Block runs of the worker that has the most to do."""
    busy = [0] * workers
    for shard in shards:
        heapq.heapreplace(busy, busy[0] + shard.cost)
    return max(busy)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| search | batches | | " + " | ".join(map(str, WORKERS)) + " |")
    print("|---|---:|---|" + "---:|" * len(WORKERS))
    for name in ("one-shot", "greedy", "beam"):
        asked = asks(name, options.blocks, options.k, options.seed)
        for batches in (1, 8):
            one = batches * sum(block_runs(sets, options.blocks) for sets in asked)
            total, share = [], []
            for workers in WORKERS:
                shards = [
                    cut(
                        [Work(((place,),), 1, sets) for place in range(batches)],
                        options.blocks,
                        workers,
                    )
                    for sets in asked
                ]
                total.append(sum(s.cost for each in shards for s in each) / one)
                share.append(sum(busiest(each, workers) for each in shards) / one)
            print(f"| {name} | {batches} | runs | " + " | ".join(f"{v:.2f}" for v in total) + " |")
            print(f"| {name} | {batches} | share | " + " | ".join(f"{v:.3f}" for v in share) + " |")


if __name__ == "__main__":
    main()
