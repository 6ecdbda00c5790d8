"""The noise floor: what changing nothing but the draw does, and what may be called an effect.

How much a factor moves a response is the mean absolute difference of two cells that differ in that
factor alone; the noise floor is the same figure for two draws of one configuration, so the two are
compared like with like. Two calibrations also differ by their draws, so without any effect of the
calibration its figure is the floor itself.

An effect is claimed on two conditions: its figure is above the floor, and its level means differ
by an F test at a level that Holm (1979) keeps for all tests of a table together. The tests count
draws, not cells, since the cells of a draw share its luck: calibrations are compared by the means
of their draws, by the F of Brown and Forsythe (1974), since draws of one source differ more than
those of another; searches and objectives within draws, as repeated measures with the correction of
Greenhouse and Geisser (1959), since some searches agree more with each other than with others.
Searches that few draws saw take no part in the test: it is of the levels, and the draws that saw
all of these, that leave the most degrees of freedom. With one draw there is no floor, and nothing
is claimed.

Intervals are of the stratified jackknife that leaves out one draw at a time (Efron and Stein 1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from depthprune.study.answers import Estimate, Unsaid
from depthprune.study.overlap import pairs
from depthprune.study.panel import Floats, Ints, Panel

ALPHA = 0.05
_EXACT = 1e-10


@dataclass(frozen=True)
class Moved:
    """How much changing one factor moves each response.

    Attributes:
        mean: Mean absolute difference of the pairs, shape (responses,).
        left_out: The same without each unit in turn, shape (units, responses); NaN where no pair
            is left.
        strata: The calibration of each unit, shape (units,).
        pairs: How many.
    """

    mean: Floats
    left_out: Floats
    strata: Ints
    pairs: int


@dataclass(frozen=True)
class Tested:
    """An F test of one factor's level means, for each response.

    Attributes:
        f: Shape (responses,); infinite where nothing else varies.
        p: Shape (responses,).
        df: Degrees of freedom of the numerator and the denominator, before any correction.
        cells: How many cells took part.
        levels: Of the factor, those that were tested; those that few draws saw may be left out.
    """

    f: Floats
    p: Floats
    df: tuple[int, int]
    cells: int
    levels: tuple[str, ...]


def moved(panel: Panel, vary: str) -> Moved | Unsaid:
    """What changing one factor does, all else equal.

    Args:
        panel: Cells of one kind of calibration.
        vary: `draw` for the noise floor, or `calibration`, `objective`, `search`.
    """
    one, other = pairs(panel, vary)
    if not len(one):
        return Unsaid(_WHY[vary])
    unit = panel.codes["unit"]
    units = panel.count("unit")
    gaps = np.abs(panel.values[one] - panel.values[other])
    # A pair goes when either of its draws does, and once where both are the same draw.
    touches = np.zeros((units, len(one)))
    touches[unit[one], np.arange(len(one))] = 1
    touches[unit[other], np.arange(len(one))] = 1
    left = len(one) - touches.sum(axis=1)[:, None]
    rest = gaps.sum(axis=0) - touches @ gaps
    without = np.divide(rest, left, out=np.full_like(rest, np.nan), where=left > 0)
    strata = np.zeros(units, dtype=np.int64)
    strata[unit] = panel.codes["calibration"]
    return Moved(gaps.mean(axis=0), without, strata, len(one))


_WHY = {
    "draw": "no configuration has two draws; run each with draws of several seeds",
    "calibration": "no two cells differ in the calibration alone",
    "search": "no two cells differ in the search alone",
    "objective": "no two cells differ in the objective alone",
}


def interval(moves: Moved, columns: Ints, minus: Moved | None = None) -> Estimate:
    """The mean over responses, with its 95% interval between draws.

    Args:
        moves: What one factor does.
        columns: The responses.
        minus: What another does, to be subtracted; of the same panel.
    """
    value = float(moves.mean[columns].mean())
    without = moves.left_out[:, columns].mean(axis=1)
    if minus is not None:
        value -= float(minus.mean[columns].mean())
        without = without - minus.left_out[:, columns].mean(axis=1)
    error = _jackknife(without, moves.strata)
    if isinstance(error, Unsaid):
        return Estimate(value, error, error, moves.pairs)
    width = float(stats.t.ppf(0.975, error[1])) * error[0]
    low = value - width if minus is not None else max(0.0, value - width)
    return Estimate(value, low, value + width, moves.pairs)


def _jackknife(without: Floats, strata: Ints) -> tuple[float, int] | Unsaid:
    variance, freedom = 0.0, 0
    for stratum in np.unique(strata):
        inside = without[strata == stratum]
        if len(inside) < 2:
            continue
        if np.isnan(inside).any():
            return Unsaid("too few draws for an interval")
        variance += (len(inside) - 1) / len(inside) * float(((inside - inside.mean()) ** 2).sum())
        freedom += len(inside) - 1
    if not freedom:
        return Unsaid("one draw of each calibration gives no interval")
    return float(np.sqrt(variance)), freedom


def tested(panel: Panel, vary: str) -> Tested | Unsaid:
    """Whether the level means of one factor differ, for each response.

    Args:
        panel: Cells of one kind of calibration.
        vary: `calibration`, `search` or `objective`.
    """
    if panel.count(vary) < 2:
        return Unsaid(f"there is one {vary} only")
    return _between_draws(panel) if vary == "calibration" else _within_draws(panel, vary)


def _between_draws(panel: Panel) -> Tested | Unsaid:
    unit, column = panel.codes["unit"], panel.joint("model", "k", "objective", "search", "seed")
    there = np.zeros((panel.count("unit"), column.max() + 1), dtype=np.bool_)
    there[unit, column] = True
    complete = np.logical_and.reduce(there, axis=0)[column]
    if not complete.any():
        return Unsaid("no search under one objective was run on every draw of every calibration")
    means = _means(panel.values[complete], unit[complete], panel.count("unit"))
    strata = np.zeros(len(means), dtype=np.int64)
    strata[unit] = panel.codes["calibration"]
    c, u = panel.count("calibration"), len(means)
    if u <= c:
        return Unsaid(_WHY["draw"])
    level = _means(means, strata, c)[strata]
    among, inside = ((level - means.mean(axis=0)) ** 2).sum(0), (means - level) ** 2
    counts = np.bincount(strata, minlength=c)[:, None]
    spreads = np.stack([inside[strata == i].sum(0) for i in range(c)]) / np.maximum(counts - 1, 1)
    # A calibration with one draw shows no variance of its own; it is given that of the others.
    spreads = np.where(counts > 1, spreads, inside.sum(0) / (u - c))
    below = ((1 - counts / u) * spreads).sum(0)
    f = _ratio(among / (c - 1), below / (c - 1), (panel.values**2).sum(0))
    df1, df2 = _unequal(spreads, counts)
    names, cells = panel.levels["calibration"], int(complete.sum())
    return Tested(f, stats.f.sf(f, df1, df2), (c - 1, u - c), cells, names)


def _unequal(spreads: Floats, counts: Ints) -> tuple[Floats, Floats]:
    """Degrees of freedom of the F of Brown and Forsythe, the numerator's after Mehrotra (1997).

    Args:
        spreads: Variance between draws of each calibration, shape (calibrations, responses).
        counts: Draws of each, shape (calibrations, 1).
    """
    share = counts / counts.sum()
    weighted = (share * spreads).sum(0)
    above = (spreads.sum(0) - weighted) ** 2
    under = (spreads**2).sum(0) + weighted**2 - 2 * (share * spreads**2).sum(0)
    parts = (1 - share) * spreads
    each = (parts**2 / np.maximum(counts - 1, 1)).sum(0)
    whole = np.full_like(above, float(len(counts) - 1))
    rest = np.full_like(above, float(counts.sum() - len(counts)))
    df1 = np.divide(above, under, out=whole, where=under > 0)
    df2 = np.divide(parts.sum(0) ** 2, each, out=rest, where=each > 0)
    return df1, df2


def _within_draws(panel: Panel, vary: str) -> Tested | Unsaid:
    levels = _most_complete(_scores(panel, vary)[1])
    # Once more without the others, so that every level is measured in the same company.
    scores, there = _scores(panel, vary, levels)
    complete = there[:, levels].all(axis=1)
    scores = scores[complete][:, levels]
    if len(scores) < 2:
        return Unsaid(f"fewer than two draws saw more than one {vary}")
    df = (len(levels) - 1, (len(scores) - 1) * (len(levels) - 1))
    means = scores.mean(axis=0)
    among = len(scores) * ((means - means.mean(axis=0)) ** 2).sum(axis=0)
    left = scores - scores.mean(axis=1, keepdims=True) - means + means.mean(axis=0)
    f = _ratio(among / df[0], (left**2).sum(axis=(0, 1)) / df[1], (panel.values**2).sum(0))
    shrink = _sphericity(scores)
    p = stats.f.sf(f, df[0] * shrink, df[1] * shrink)
    names = tuple(panel.levels[vary][level] for level in levels)
    return Tested(f, p, df, len(panel.rows), names)


def _most_complete(there: NDArray[np.bool_]) -> Ints:
    """The levels that leave the most degrees of freedom where draws without all of them are out.

    A level that few draws saw would cost the test those that did not, or its power. Which levels
    are taken depends on what was run and on no result.
    """
    order = np.argsort(-there.sum(axis=0), kind="stable")
    freedom = [
        (int(there[:, order[:count]].all(axis=1).sum()) - 1) * (count - 1)
        for count in range(2, len(order) + 1)
    ]
    return np.sort(order[: int(np.argmax(freedom)) + 2])


def _scores(
    panel: Panel, vary: str, levels: Ints | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """The mean of each level in each draw, from which what the draw's blocks share is taken.

    Args:
        panel: The cells.
        vary: The factor.
        levels: Those that take part; by default all.

    Returns:
        Shape (units, levels, responses), and where there is one, shape (units, levels).
    """
    same = ["model", "k", "unit", *(f for f in ("objective", "search", "seed") if f != vary)]
    if vary == "search":
        same.remove("seed")
    block = panel.joint(*same)
    cell = np.unique(np.stack([block, panel.codes[vary]], 1), axis=0, return_inverse=True)
    where, inverse = cell[0], cell[1].reshape(-1)
    # Seeds of one search are averaged first, so that a search counts once in its block.
    values = _means(panel.values, inverse, len(where))
    if levels is not None:
        mine = np.isin(where[:, 1], levels)
        where, values = where[mine], values[mine]
    centred = values - _means(values, where[:, 0], int(block.max()) + 1)[where[:, 0]]
    unit_of = np.zeros(int(block.max()) + 1, dtype=np.int64)
    unit_of[block] = panel.codes["unit"]
    several = np.bincount(where[:, 0])[where[:, 0]] > 1
    count = panel.count(vary)
    place = (unit_of[where[:, 0]] * count + where[:, 1])[several]
    size = panel.count("unit") * count
    there = np.bincount(place, minlength=size).reshape(-1, count) > 0
    return _means(centred[several], place, size).reshape(*there.shape, -1), there


def _means(values: Floats, codes: Ints, levels: int) -> Floats:
    sums = np.zeros((levels, values.shape[1]))
    np.add.at(sums, codes, values)
    counts = np.bincount(codes, minlength=levels)[:, None]
    return sums / np.maximum(counts, 1)


def _ratio(above: Floats, below: Floats, scale: Floats) -> Floats:
    # What is left by rounding is not variation: 0/0 is no effect, and x/0 is a certain one.
    nothing = _EXACT**2 * scale
    above, below = np.where(above <= nothing, 0.0, above), np.where(below <= nothing, 0.0, below)
    certain = np.where(above > 0, np.inf, 0.0)
    found: Floats = np.divide(above, below, out=certain, where=below > 0)
    return found


def _sphericity(scores: Floats) -> Floats:
    """Greenhouse and Geisser's ε of each response, from 1 / (levels − 1) to 1."""
    levels = scores.shape[1]
    centred = scores - scores.mean(axis=1, keepdims=True)
    centred = centred - centred.mean(axis=0)
    covariance = np.einsum("usr,utr->rst", centred, centred)
    trace = np.einsum("rss->r", covariance)
    square = np.einsum("rst,rst->r", covariance, covariance)
    whole = np.ones_like(trace)
    epsilon: Floats = np.divide(trace**2, (levels - 1) * square, out=whole, where=square > 0)
    return epsilon


def holm(p: Floats) -> Floats:
    """Holm's adjusted p values along the first axis, shape (tests, …)."""
    order = np.argsort(p, axis=0)
    steps = np.arange(len(p), 0, -1).reshape(-1, *[1] * (p.ndim - 1))
    raised = np.maximum.accumulate(np.take_along_axis(p, order, axis=0) * steps, axis=0)
    adjusted: Floats = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(raised, 1.0), axis=0)
    return adjusted


def claimed(p: Floats, size: Floats, floor: Floats, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which effects may be called one: above the floor, and told from noise among all tests.

    Args:
        p: Of every test of a table, shape (tests, …).
        size: What each factor moves, same shape.
        floor: What the draw moves, same shape.
        alpha: The chance of any claim where there is nothing but noise.
    """
    found: NDArray[np.bool_] = (holm(p) < alpha) & (size > floor)
    return found
