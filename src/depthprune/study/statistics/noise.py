"""What changing one thing moves, like compared with like, and its interval between draws.

How much a factor moves a response is the mean absolute difference of two cells that differ in that
factor *and in the draw*. Two calibrations differ by their draws whatever is done, so searches and
objectives are compared across draws too: under pure noise all figures are then the noise floor,
which is the same figure of two draws with nothing else changed, and neither factor has a start.

Figures are of the table's balanced core (see `core`), where every pair of levels weighs alike.
Draws are what is repeated, and the windows and items judged on (see `intervals`); calibrations,
searches and texts are those that were chosen. What draws do is the jackknife that leaves out one
draw at a time (Efron and Stein 1981), its draw's calibration keeping its weight, with the degrees
of freedom of Satterthwaite (1946).

How much more the calibration moves than the search is nearly a difference of two figures of the
same noise, for which the jackknife is too wide. Its interval is a studentised parametric bootstrap
(Efron and Tibshirani 1993, ch. 12): tables are made anew from the means of the levels, shrunk by
what noise alone would spread them, and normal draws of the residuals' own covariance, and the
quantiles of (difference − its mean) / jackknife error take the place of Student's. The half-widths
that draws and items give are added as squares (Zou and Donner 2008).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import (
    ALPHA,
    VariancePart,
    half_width,
    item_parts,
)

_RESAMPLES = 999
# Differences held at once: what a core's own cache holds.
_AT_ONCE = 1 << 17
# A spread that few draws show is drawn towards that of all: it weighs as much as this many draws.
_PRIOR_DRAWS = 4.0


@dataclass(frozen=True)
class FactorEffect:
    """How much changing one thing moves each response.

    Attributes:
        mean: Mean absolute difference, shape (responses,).
        left_out: The same without each draw in turn, shape (draws, responses); NaN where no pair
            is left.
        calibration: Of each draw, shape (draws,).
        pairs: How many pairs of draws.
        of: The core it is of.
        vary: What is changed.
    """

    mean: Floats
    left_out: Floats
    calibration: Ints
    pairs: int
    of: Core
    vary: str

    def items(self, columns: Ints) -> list[VariancePart]:
        """What the windows and items judged on add to the variance of the mean of some responses.

        Args:
            columns: The responses.
        """
        pairs = _pairs(self.calibration, self.vary)
        return item_parts(
            self.of,
            lambda values: pairs.weights[0] @ _gaps(self.of, values, self.vary, pairs),
            columns,
        )


def moved(of: Core, vary: str) -> FactorEffect | NotEstimable:
    """What changing one thing moves, all else but the draw equal.

    Args:
        of: A balanced core.
        vary: `calibration`, `search`, `objective`, or `draw` for the noise floor.
    """
    why = _unknown(of, vary)
    if why is not None:
        return why
    pairs = _pairs(of.calibration, vary)
    figures = pairs.weights @ _gaps(of, of.values, vary, pairs)
    return FactorEffect(figures[0], figures[1:], of.calibration, len(pairs.one), of, vary)


def _unknown(of: Core, vary: str) -> NotEstimable | None:
    if vary == "calibration":
        return None if len(of.calibrations) > 1 else NotEstimable("there is one calibration only")
    if (of.draws < 2).all():
        return NotEstimable("no configuration has two draws; run each with draws of several seeds")
    if vary == "search" and len(of.searches) < 2:
        return NotEstimable("there is one search only that every draw saw")
    if vary == "objective" and not any(_levels(of, vary)):
        return NotEstimable("there is one objective only that every draw saw")
    return None


def _levels(of: Core, vary: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
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


@dataclass(frozen=True)
class _Pairs:
    """The pairs of draws that a comparison is over.

    Attributes:
        one: The first draw of each, shape (pairs,).
        other: The second.
        weights: What each weighs: in all (row 0), and without each draw (the other rows).
    """

    one: Ints
    other: Ints
    weights: Floats


def _gaps(of: Core, values: Floats, vary: str, pairs: _Pairs) -> Floats:
    """The mean absolute difference of each pair of draws, shape (pairs, columns).

    Args:
        of: Says what the axes are.
        values: Shape (draws, searches, blocks, columns).
        vary: As in `moved`.
        pairs: By `_pairs`.
    """
    width = values.shape[-1]
    places = values.reshape(len(values), -1, width)
    levels = np.asarray(_levels(of, vary))
    here, there = (levels[:, side, 0] * len(of.blocks) + levels[:, side, 1] for side in (0, 1))
    gaps = np.empty((len(pairs.one), width))
    step = max(1, _AT_ONCE // (len(levels) * width))
    for start in range(0, len(gaps), step):
        part = slice(start, start + step)
        one, other = places[pairs.one[part]], places[pairs.other[part]]
        if vary not in ("calibration", "draw"):
            one, other = one[:, here], other[:, there]
        one -= other
        gaps[part] = np.abs(one, out=one).mean(axis=1)
    return gaps


def _pairs(calibration: Ints, vary: str) -> _Pairs:
    """The pairs that are compared, and what they weigh.

    Every pair of calibrations, or every calibration, weighs alike, whichever draw is left out.
    """
    return _pairs_of(tuple(calibration.tolist()), vary)


@lru_cache(maxsize=64)
def _pairs_of(of_draws: tuple[int, ...], vary: str) -> _Pairs:
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
    return _Pairs(one, other, np.stack(rows))


def interval(moves: FactorEffect, columns: Ints) -> IntervalEstimate:
    """The mean over responses, with its 95% interval between draws.

    Args:
        moves: What one thing moves.
        columns: The responses.
    """
    value = float(moves.mean[columns].mean())
    without = moves.left_out[:, columns].mean(axis=1, keepdims=True)
    if np.bincount(moves.calibration).max() < 2:
        why = NotEstimable("one draw of each calibration gives no interval")
        return IntervalEstimate(value, why, why, moves.pairs)
    error, freedom = _jackknife(without, moves.calibration)
    if np.isnan(error[0]):
        why = NotEstimable("too few draws for an interval")
        return IntervalEstimate(value, why, why, moves.pairs)
    draws = VariancePart(float(error[0]) ** 2, float(freedom[0]))
    width = math.hypot(half_width([draws]), half_width(moves.items(columns)))
    return IntervalEstimate(value, max(0.0, value - width), value + width, moves.pairs)


def _jackknife(without: Floats, calibration: Ints) -> tuple[Floats, Floats]:
    """The standard error and its degrees of freedom, of each column.

    Args:
        without: Shape (draws, columns).
        calibration: Shape (draws,).
    """
    parts, free = [], []
    for stratum in np.unique(calibration):
        inside = without[calibration == stratum]
        if len(inside) > 1:
            spread = ((inside - inside.mean(axis=0)) ** 2).sum(axis=0)
            parts.append((len(inside) - 1) / len(inside) * spread)
            free.append(len(inside) - 1)
    variance = np.stack(parts)
    total = variance.sum(axis=0)
    below = (variance**2 / np.asarray(free, dtype=float)[:, None]).sum(axis=0)
    whole = np.full_like(total, float(sum(free)))
    freedom = np.divide(total**2, below, out=whole, where=below > 0)
    return np.sqrt(total), freedom


@dataclass(frozen=True)
class Difference:
    """How much more the calibration moves than the search.

    Attributes:
        estimate: The difference of the two figures, with its interval.
        p: Two-sided, that they are equal, by the same bootstrap; or why it is not known.
    """

    estimate: IntervalEstimate
    p: float | NotEstimable


def difference(
    of: Core, *, resamples: int = _RESAMPLES, seed: int = 0
) -> Difference | NotEstimable:
    """What the calibration moves, less what the search moves, over all responses of a core.

    Args:
        of: A balanced core with the responses of one kind.
        resamples: Tables that are made anew.
        seed: Of the bootstrap.
    """
    for vary in ("calibration", "search", "draw"):
        why = _unknown(of, vary)
        if why is not None:
            return why
    compared = {vary: _pairs(of.calibration, vary) for vary in ("calibration", "search")}
    found = _differences(of, of.values, compared)
    value, pairs = float(found[0, 0]), len(compared["calibration"].one)
    if np.isnan(found).any():
        why = NotEstimable("two draws of a calibration give no interval; run at least three")
        return Difference(IntervalEstimate(value, why, why, pairs), why)
    error = float(_jackknife(found[1:], of.calibration)[0][0])
    items = item_parts(
        of,
        lambda values: np.subtract(
            *(pairs.weights[0] @ _gaps(of, values, v, pairs) for v, pairs in compared.items())
        ),
    )
    of_items = half_width(items)
    if error <= 1e-12 * max(1.0, abs(value)):
        estimate = IntervalEstimate(value, value - of_items, value + of_items, pairs)
        return Difference(estimate, 0.0 if abs(value) > of_items else 1.0)
    tables = _made_anew(of, resamples, np.random.default_rng(seed))
    again = _differences(of, tables, compared, len(of.responses))
    errors = _jackknife(again[1:], of.calibration)[0]
    pivots = (again[0] - again[0].mean()) / errors
    low, high = np.quantile(pivots, [ALPHA / 2, 1 - ALPHA / 2], method="weibull")
    whole = math.sqrt(error**2 + sum(part.variance for part in items))
    share = float(np.mean(pivots <= value / whole))
    p = min(1.0, (2 * min(share, 1 - share) * resamples + 1) / (resamples + 1))
    estimate = IntervalEstimate(
        value,
        value - math.hypot(float(high) * error, of_items),
        value + math.hypot(float(low) * error, of_items),
        pairs,
    )
    return Difference(estimate, p)


def _differences(
    of: Core, values: Floats, compared: dict[str, _Pairs], responses: int | None = None
) -> Floats:
    """Calibration's figure less search's: in all, and without each draw, of each table.

    Args:
        of: Says what the axes are.
        values: Shape (draws, searches, blocks, tables × responses).
        compared: By `_pairs`, for both factors.
        responses: How many a table has; None for one table of all.

    Returns:
        Shape (1 + draws, tables).
    """
    more = np.subtract(
        *(pairs.weights @ _gaps(of, values, vary, pairs) for vary, pairs in compared.items())
    )
    tables: Floats = more.reshape(len(more), -1, responses or more.shape[1]).mean(axis=2)
    return tables


def _made_anew(of: Core, count: int, rng: np.random.Generator) -> Floats:
    """Tables of the fitted model, shape (draws, searches, blocks, count × responses)."""
    members, levels = of.calibration, len(of.calibrations)
    flat = of.values.reshape(len(members), -1)
    means = np.stack([flat[members == c].mean(axis=0) for c in range(levels)])
    residuals = flat - means[members]
    freedom = len(flat) - levels
    draws = of.draws
    # Each calibration's draws spread by their own, drawn towards the spread of all.
    all_of_it = (residuals**2).sum() / freedom
    own = np.asarray([(residuals[members == c] ** 2).sum() for c in range(levels)])
    own /= np.maximum(draws - 1, 1) * max(all_of_it, 1e-300)
    trust = (draws - 1) / (draws - 1 + _PRIOR_DRAWS)
    scale = np.sqrt(trust * own + 1 - trust)
    shape = of.values.shape[1:]
    centre = _shrunk(means.reshape(levels, *shape), residuals, freedom, draws)
    noise = rng.standard_normal((count, len(flat), len(flat))) @ (residuals / np.sqrt(freedom))
    tables = centre.reshape(levels, -1)[members] + scale[members][:, None] * noise
    made = tables.reshape(count, len(flat), *shape)
    anew: Floats = np.moveaxis(made, 0, -2).reshape(len(flat), *shape[:2], -1)
    return anew


def _shrunk(means: Floats, residuals: Floats, freedom: int, draws: Ints) -> Floats:
    """Level means, each kind of effect shrunk by what the noise would make of none.

    Args:
        means: Shape (calibrations, searches, blocks, responses).
        residuals: Shape (draws, searches × blocks × responses).
        freedom: Degrees of freedom of the residuals.
        draws: Of each calibration.
    """
    levels, searches = means.shape[:2]
    grand = means.mean(axis=(0, 1), keepdims=True)
    of_calibration = means.mean(axis=1, keepdims=True) - grand
    of_search = means.mean(axis=0, keepdims=True) - grand
    of_both = means - grand - of_calibration - of_search
    noise = residuals.reshape(-1, *means.shape[1:])
    shared = noise.mean(axis=1, keepdims=True)
    per_draw = float((shared**2).sum()) / freedom
    within = float(((noise - shared) ** 2).sum()) / freedom / max(1, searches - 1)
    each = float(np.mean(1 / draws))
    shrunk: Floats = grand + sum(
        (
            _towards_nothing(of_calibration, levels - 1, per_draw * each),
            _towards_nothing(of_search, searches - 1, within * each / levels),
            _towards_nothing(of_both, (levels - 1) * (searches - 1), within * each),
        ),
        np.zeros_like(means),
    )
    return shrunk


def _towards_nothing(effect: Floats, freedom: int, noise: float) -> Floats:
    spread = float((effect**2).sum()) / max(1, freedom)
    kept = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    shrunk: Floats = effect * np.sqrt(kept)
    return shrunk
