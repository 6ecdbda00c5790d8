"""The pairs of cells that are compared: alike but for one factor, and always of two draws.

Two calibrations differ by their draws whatever is done, so searches and objectives are compared
across draws too. Every pair of calibrations, or every calibration, weighs alike.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints

# Differences held at once: what a core's own cache holds.
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class DrawPairs:
    """The pairs of draws that a comparison is over.

    Attributes:
        one: The first draw of each, shape (pairs,).
        other: The second.
        weights: What each weighs: in all (row 0), and without each draw (the other rows).
    """

    one: Ints
    other: Ints
    weights: Floats


def pairs_of(calibration: Ints, vary: str) -> DrawPairs:
    """The pairs that are compared, and what they weigh.

    Every pair of calibrations, or every calibration, weighs alike, whichever draw is left out.
    """
    return _pairs_of_draws(tuple(calibration.tolist()), vary)


@lru_cache(maxsize=64)
def _pairs_of_draws(of_draws: tuple[int, ...], vary: str) -> DrawPairs:
    calibration = np.asarray(of_draws, dtype=np.int64)
    one, other = np.triu_indices(len(calibration), 1)
    a, b = calibration[one], calibration[other]
    taken = a != b if vary == "calibration" else a == b
    one, other, a, b = one[taken], other[taken], a[taken], b[taken]
    group = np.minimum(a, b) * (int(calibration.max()) + 1) + np.maximum(a, b)
    names, index = np.unique(group, return_inverse=True)
    rows = []
    for without in range(-1, len(calibration)):
        left = (one != without) & (other != without)
        sizes = np.bincount(index[left], minlength=len(names))
        if (sizes == 0).any():
            rows.append(np.full(len(one), np.nan))
        else:
            rows.append(np.where(left, 1.0 / (len(names) * sizes[index]), 0.0))
    return DrawPairs(one, other, np.stack(rows))


def levels_compared(of: Core, vary: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The ordered pairs of (search, block) that are compared."""
    places = list(itertools.product(range(len(of.searches)), range(len(of.blocks))))
    if vary in ("calibration", "draw"):
        return [(place, place) for place in places]
    if vary == "search":
        return [(a, b) for a in places for b in places if a[1] == b[1] and a[0] != b[0]]
    return [
        (a, b)
        for a in places
        for b in places
        if a[0] == b[0] and a[1] != b[1] and of.blocks[a[1]][0] == of.blocks[b[1]][0]
    ]


def gaps(of: Core, values: Floats, vary: str, pairs: DrawPairs) -> Floats:
    """The mean absolute difference of each pair of draws, shape (pairs, columns).

    Args:
        of: Says what the axes are.
        values: Shape (draws, searches, blocks, columns).
        vary: As in `noise.moved`.
        pairs: By `pairs_of`.
    """
    width = values.shape[-1]
    places = values.reshape(len(values), -1, width)
    levels = np.asarray(levels_compared(of, vary))
    here, there = (levels[:, side, 0] * len(of.blocks) + levels[:, side, 1] for side in (0, 1))
    found = np.empty((len(pairs.one), width))
    step = max(1, _AT_ONCE // (len(levels) * width))
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        one, other = places[pairs.one[part]], places[pairs.other[part]]
        if vary not in ("calibration", "draw"):
            one, other = one[:, here], other[:, there]
        one -= other
        found[part] = np.abs(one, out=one).mean(axis=1)
    return found
