"""How far removed sets agree: the Jaccard index, against chance.

|A∩B| / |A∪B| (Jaccard 1901). Two random sets overlap too, so an index alone says nothing: the
overlap of two sets drawn from the n blocks that may go is hypergeometric, which gives the
expectation exactly, not by the ratio of expectations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from depthprune.study.statistics.data import (
    Floats,
    Ints,
    StudyData,
)
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.masks import masks


@dataclass(frozen=True)
class Agreement:
    """Mean Jaccard index over pairs of sets, against chance.

    Attributes:
        mean: Over the pairs.
        chance: What random sets of the same sizes would have, over the same pairs.
        pairs: How many.
    """

    mean: float
    chance: float
    pairs: int


def jaccard_matrix(sets: Sequence[Sequence[int]], blocks: int) -> Floats:
    """The index of every two sets, shape (sets, sets); two empty ones agree wholly."""
    numbers = masks(sets, blocks).astype(np.float64)
    both = numbers @ numbers.T
    sizes = numbers.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    index: Floats = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return index


def expected_jaccard(free: int, a: int, b: int) -> float:
    """The expected index of two random sets.

    Args:
        free: Blocks that may go.
        a: Size of the one set.
        b: Size of the other.

    Returns:
        Σ P(x) · x / (a + b − x) over the overlap x, which is hypergeometric.
    """
    if a == b == 0:
        return 1.0
    overlap = np.arange(max(0, a + b - free), min(a, b) + 1)
    chance = stats.hypergeom.pmf(overlap, free, a, b)
    return float(chance @ (overlap / (a + b - overlap)))


_SAME = {
    "search": ("model", "k", "kind", "calibration", "objective", "unit"),
    "calibration": ("model", "k", "kind", "objective", "search", "seed"),
    "objective": ("model", "k", "kind", "calibration", "unit", "search", "seed"),
    "draw": ("model", "k", "kind", "calibration", "objective", "search", "seed"),
}
_DIFFERS = {"draw": "unit"}


def pairs(data: StudyData, vary: str) -> tuple[Ints, Ints]:
    """Cells that differ in one thing alone.

    Args:
        data: The cells.
        vary: `search` (within a configuration, on the same draw), `calibration` (within a search;
            its draws differ with it), `objective` (on the same draw), or `draw`.

    Returns:
        Indices of the one and the other cell of each pair, each pair once.
    """
    same, differs = data.joint(*_SAME[vary]), data.codes[_DIFFERS.get(vary, vary)]
    order = np.argsort(same, kind="stable")
    bounds = np.flatnonzero(np.diff(same[order], prepend=-1, append=-2))
    left: list[NDArray[np.int64]] = []
    right: list[NDArray[np.int64]] = []
    for start, end in itertools.pairwise(bounds):
        group = order[start:end]
        one, other = np.triu_indices(len(group), 1)
        unlike = differs[group[one]] != differs[group[other]]
        left.append(group[one[unlike]])
        right.append(group[other[unlike]])
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *left]), np.concatenate([empty, *right])


def agreement(data: StudyData, vary: str) -> Agreement | NotEstimable:
    """Mean Jaccard index over the cells that differ in `vary` alone, against chance.

    Args:
        data: The cells.
        vary: As in `pairs`.
    """
    one, other = pairs(data, vary)
    if not len(one):
        return NotEstimable(f"no two cells differ in the {vary} alone")
    sets = masks([row.removed for row in data.rows], _blocks(data))
    free = np.asarray([row.blocks - len(row.protect) for row in data.rows])
    each = np.stack([free, sets.sum(axis=1)], axis=1)
    alike, counts = np.unique(
        np.column_stack([each[one], each[other, 1]]), axis=0, return_counts=True
    )
    chance = [expected_jaccard(*map(int, sizes)) for sizes in alike]
    mean = _PairIndex(sets, (one, other)).mean(sets)
    return Agreement(mean, float(np.average(chance, weights=counts)), len(one))


def agreement_p(
    data: StudyData, vary: str, *, permutations: int = 999, seed: int = 0
) -> float | NotEstimable:
    """How often random sets of the same cells agree as much over the same pairs: a permutation p.

    Args:
        data: The cells.
        vary: As in `pairs`.
        permutations: How often every set's blocks are drawn anew from those that may go.
        seed: Of the permutations.

    Returns:
        (1 + permutations at least as high) / (1 + permutations), after Phipson and Smyth (2010).
    """
    compared = pairs(data, vary)
    if not len(compared[0]):
        return NotEstimable(f"no two cells differ in the {vary} alone")
    rows = masks([row.removed for row in data.rows], _blocks(data))
    free = np.ones_like(rows)
    for i, row in enumerate(data.rows):
        free[i, list(row.protect)] = False
        free[i, row.blocks :] = False
    sizes, rng = rows.sum(axis=1), np.random.default_rng(seed)
    index = _PairIndex(rows, compared)
    observed, reached = index.mean(rows), 0
    for _ in range(permutations):
        order = np.argsort(np.where(free, rng.random(free.shape), 2.0), axis=1)
        drawn = np.zeros_like(rows)
        np.put_along_axis(drawn, order, np.arange(rows.shape[1]) < sizes[:, None], axis=1)
        reached += index.mean(drawn) >= observed - 1e-12
    return (1 + reached) / (1 + permutations)


def _blocks(data: StudyData) -> int:
    return max(row.blocks for row in data.rows)


_WORD = 16
_BITS = np.unpackbits(np.arange(1 << _WORD, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
_COUNTS = _BITS.sum(axis=1, dtype=np.int16)
"""How many bits of each word are set."""


class _PairIndex:
    """The index of some pairs of sets and of no others: a table has far more than are compared.

    Args:
        rows: Masks of the sets, shape (sets, blocks).
        pairs: Numbers of the sets that are compared.
    """

    def __init__(self, rows: NDArray[np.bool_], pairs: tuple[Ints, Ints]) -> None:
        self._one, self._other = pairs
        sizes = rows.sum(axis=1)
        self._total = sizes[self._one] + sizes[self._other]

    def mean(self, rows: NDArray[np.bool_]) -> float:
        """Over the pairs, of sets of the same sizes."""
        wide = np.pad(rows, ((0, 0), (0, -rows.shape[1] % _WORD)))
        words = np.ascontiguousarray(np.packbits(wide, axis=1).view(np.uint16).T)
        both = np.zeros(len(self._one), dtype=np.int64)
        for word in words:
            both += _COUNTS[word[self._one] & word[self._other]]
        either = self._total - both
        return float(np.divide(both, either, out=np.ones(len(both)), where=either > 0).mean())
