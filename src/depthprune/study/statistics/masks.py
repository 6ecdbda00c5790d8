"""Which blocks went: masks, how often each block goes, and how clustered a set is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthprune.study.statistics.estimates import NotEstimable


@dataclass(frozen=True)
class Contiguity:
    """How clustered a removed set is.

    Attributes:
        runs: Groups of neighbouring blocks.
        longest: Blocks in the longest run.
        span: Blocks from the first removed to the last, both counted.
        mean_depth: Mean position, 0 at the first block of the model and 1 at its last.
    """

    runs: int
    longest: int
    span: int
    mean_depth: float


def masks(sets: Sequence[Sequence[int]], blocks: int) -> NDArray[np.bool_]:
    """Removed sets as rows of booleans, shape (sets, blocks)."""
    found = np.zeros((len(sets), blocks), dtype=np.bool_)
    for row, removed in enumerate(sets):
        found[row, list(removed)] = True
    return found


def contiguity(removed: Sequence[int], blocks: int) -> Contiguity | NotEstimable:
    """Runs, span and mean depth of one set.

    Args:
        removed: Block numbers.
        blocks: Blocks of the model.
    """
    if not removed:
        return NotEstimable("no block was removed")
    ordered = np.sort(np.asarray(removed, dtype=np.int64))
    breaks = np.flatnonzero(np.diff(ordered) > 1)
    lengths = np.diff(np.concatenate([[-1], breaks, [len(ordered) - 1]]))
    return Contiguity(
        runs=len(lengths),
        longest=int(lengths.max()),
        span=int(ordered[-1] - ordered[0] + 1),
        mean_depth=float(ordered.mean() / max(1, blocks - 1)),
    )
