"""PERMANOVA: whether groups of removed sets differ, on their Jaccard distances.

Anderson (2001), "A new method for non-parametric multivariate analysis of variance", Austral
Ecology 26: the sum of squared distances among all N objects, divided by N, is partitioned into
that within the groups and that among them; their ratio is referred to permutations of the groups,
since distances are not normal. On Euclidean distances of one variable it is the usual F.

Cells of a study are not freely exchangeable: one draw feeds several cells. `units` moves whole
draws when calibrations are compared; `within` shuffles inside a draw when searches are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import NotEstimable


@dataclass(frozen=True)
class Permanova:
    """The partition and its test.

    Attributes:
        f: Pseudo-F; infinite where no two objects of a group differ.
        p: (1 + permutations at least as high) / (1 + permutations).
        r2: Share of the squared distances that lies among the groups.
    """

    f: float
    p: float
    r2: float


def permanova(
    distances: Floats,
    groups: Ints,
    *,
    units: Ints | None = None,
    within: Ints | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Permanova | NotEstimable:
    """Partition squared distances by one factor.

    Args:
        distances: Symmetric, zero on the diagonal, shape (objects, objects).
        groups: The level of each object, shape (objects,).
        units: Objects with the same number move together; each unit is of one group.
        within: Objects are shuffled only among those with the same number.
        permutations: How many.
        seed: Of the permutations.

    Returns:
        The partition, or why there is none: fewer than two groups, no repetition, or all alike.
    """
    levels, codes = np.unique(groups, return_inverse=True)
    n, g = len(codes), len(levels)
    if g < 2:
        return NotEstimable("there is one group only")
    if n <= g or (units is not None and len(np.unique(units)) <= g):
        return NotEstimable("every group has one member only")
    squares = distances**2
    total = float(squares.sum() / 2 / n)
    if total <= 1e-12:
        return NotEstimable("all sets are alike")
    rng = np.random.default_rng(seed)
    inside = _within(squares, codes, g)
    tolerance = 1e-9 * total
    shuffle = _shuffler(codes, units, within, rng)
    # F falls as the sum within grows, so the sums can be compared in its place.
    reached = sum(_within(squares, shuffle(), g) <= inside + tolerance for _ in range(permutations))
    among = total - inside
    f = np.inf if inside <= tolerance else among / (g - 1) / (inside / (n - g))
    return Permanova(float(f), (1 + reached) / (1 + permutations), among / total)


def _within(squares: Floats, codes: Ints, groups: int) -> float:
    belongs = np.eye(groups)[codes]
    counts = belongs.sum(axis=0)
    sums = np.einsum("ig,ig->g", squares @ belongs, belongs) / 2
    return float((sums[counts > 0] / counts[counts > 0]).sum())


def _shuffler(
    codes: Ints, units: Ints | None, within: Ints | None, rng: np.random.Generator
) -> Callable[[], Ints]:
    own = np.arange(len(codes)) if units is None else units
    _, first, unit = np.unique(own, return_index=True, return_inverse=True)
    strata = (np.zeros(len(codes), dtype=np.int64) if within is None else within)[first]
    members = [np.flatnonzero(strata == each) for each in np.unique(strata)]

    def shuffle() -> Ints:
        moved = codes[first]
        for stratum in members:
            moved[stratum] = rng.permutation(moved[stratum])
        spread: Ints = moved[unit]
        return spread

    return shuffle
