"""Rank correlation with bootstrap intervals: Spearman's ρ and Kendall's τ-b.

Ties get the average of their ranks (ρ is Pearson's correlation of those; τ-b corrects for ties,
Kendall 1945). The interval is the percentile bootstrap (Efron 1979) that draws whole draws, whose
cells share their luck, with replacement. A resample is a vector of weights, in which both
coefficients have a closed form, so that two thousand of them are a few matrix products.

Groups (a model, a k) are ranked apart and pooled as the mean of their coefficients, weighted by
their cells: a correlation over everything at once would mostly say that removing more costs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable

_RESAMPLES = 2000
_FEWEST = 3
# Of three draws a ninth of all resamples hold one of them alone; of five a six-hundredth.
_FEWEST_DRAWS = 5


@dataclass(frozen=True)
class Correlation:
    """Both coefficients of the same pairs of values."""

    spearman: IntervalEstimate
    kendall: IntervalEstimate


def pooled(
    xs: Sequence[Floats],
    ys: Sequence[Floats],
    clusters: Sequence[Ints],
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Correlation | NotEstimable:
    """The mean of the groups' coefficients, each ranked apart, with 95% intervals.

    Args:
        xs: One column a group; groups with fewer than three cells or no variation are passed over.
        ys: The same.
        clusters: The draw of each cell. One that several groups share is drawn in all of them at
            once, since its luck is theirs together.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.
    """
    usable = [
        i
        for i, (x, y) in enumerate(zip(xs, ys, strict=True))
        if len(x) >= _FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
    ]
    if not usable:
        return NotEstimable("no group has three cells whose values vary on both sides")
    sizes = np.asarray([len(xs[i]) for i in usable])
    ends = np.cumsum(sizes)
    owners = np.concatenate([clusters[i] for i in usable])
    members = np.unique(owners, return_inverse=True)[1].reshape(-1)
    count = int(members.max()) + 1
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    value, drawn = np.zeros(2), []
    for i, end, size in zip(usable, ends, sizes, strict=True):
        value += size / ends[-1] * _coefficients(xs[i], ys[i], np.ones((1, size)))[:, 0]
        inside = picks[:, members[end - size : end]].astype(np.float64)
        drawn.append(_coefficients(xs[i], ys[i], inside))
    draws = _weighted(np.stack(drawn), sizes.astype(np.float64))
    n = int(ends[-1])
    spearman, kendall = (_estimate(value[c], draws[c], n, count) for c in (0, 1))
    return Correlation(spearman, kendall)


def _weighted(drawn: Floats, sizes: Floats) -> Floats:
    """The groups' mean in each resample; a group that a resample leaves without variation is out.

    Args:
        drawn: Shape (groups, 2, resamples).
        sizes: Shape (groups,).
    """
    there = np.isfinite(drawn)
    weights = sizes[:, None, None] * there
    return _divide((np.where(there, drawn, 0.0) * weights).sum(axis=0), weights.sum(axis=0))


def averaged(
    xs: Sequence[Floats],
    ys: Sequence[Floats],
    clusters: Sequence[int],
) -> Correlation | NotEstimable:
    """The plain mean of many small groups' coefficients, with 95% intervals.

    Where a group is the handful of searches on one draw, resampling inside it would mostly repeat
    cells; the draws themselves are resampled, each with all its groups.

    Args:
        xs: One column a group; groups with fewer than three cells or no variation are passed over.
        ys: The same.
        clusters: The draw of each group.
    """
    found, owners, n = [], [], 0
    for x, y, owner in zip(xs, ys, clusters, strict=True):
        if len(x) >= _FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0:
            found.append(_coefficients(x, y, np.ones((1, len(x))))[:, 0])
            owners.append(owner)
            n += len(x)
    if not found:
        return NotEstimable("no draw has three cells whose values vary on both sides")
    values, members = np.stack(found, axis=1), np.unique(owners, return_inverse=True)[1]
    count = int(members.max()) + 1
    rng = np.random.default_rng(0)
    picks = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    weights = picks[:, members].astype(np.float64)
    draws = values @ weights.T / weights.sum(axis=1)
    spearman, kendall = (_estimate(values[c].mean(), draws[c], n, count) for c in (0, 1))
    return Correlation(spearman, kendall)


def _estimate(value: float, draws: Floats, n: int, clusters: int) -> IntervalEstimate:
    usable = draws[np.isfinite(draws)]
    if clusters < _FEWEST_DRAWS or len(usable) < 0.9 * len(draws):
        why = NotEstimable("too few independent draws for an interval")
        return IntervalEstimate(float(value), why, why, n)
    low, high = np.quantile(usable, [0.025, 0.975])
    return IntervalEstimate(float(value), float(low), float(high), n)


def _coefficients(x: Floats, y: Floats, weights: Floats) -> Floats:
    """ρ and τ-b of each weighted resample, shape (2, resamples); NaN where all values tie."""
    return np.stack([_spearman(x, y, weights), _kendall(x, y, weights)])


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    a, b = _ranks(x, weights), _ranks(y, weights)
    # A resample may draw nothing of a group: there is then no coefficient, and no 0/0 either.
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    a = a - (weights * a).sum(axis=1, keepdims=True) / total
    b = b - (weights * b).sum(axis=1, keepdims=True) / total
    spread = (weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1)
    return _divide((weights * a * b).sum(axis=1), np.sqrt(spread))


def _ranks(x: Floats, weights: Floats) -> Floats:
    below = (x[:, None] < x[None, :]).astype(np.float64)
    equal = (x[:, None] == x[None, :]).astype(np.float64)
    ranks: Floats = weights @ (below + 0.5 * equal)
    return ranks


def _kendall(x: Floats, y: Floats, weights: Floats) -> Floats:
    a, b = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    concordant, of_x, of_y = (
        ((weights @ signs) * weights).sum(axis=1) for signs in (a * b, np.abs(a), np.abs(b))
    )
    return _divide(concordant, np.sqrt(of_x * of_y))


def _divide(above: Floats, below: Floats) -> Floats:
    nothing = np.full_like(above, np.nan)
    found: Floats = np.divide(above, below, out=nothing, where=below > 1e-12)
    return found
