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

import math
from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.bootstrap import made_anew
from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import ALPHA, VariancePart, half_width, item_parts
from depthprune.study.statistics.pairs import DrawPairs, gaps, levels_compared, pairs_of

_RESAMPLES = 999


def moved(of: Core, vary: str) -> IntervalEstimate | NotEstimable:
    """What changing one thing moves, all else but the draw equal: the mean over a core's responses.

    Args:
        of: A balanced core with the responses of one kind.
        vary: `calibration`, `search`, `objective`, or `draw` for the noise floor.
    """
    why = _unknown(of, vary)
    if why is not None:
        return why
    pairs = pairs_of(of.calibration, vary)
    means = figures(of, vary).mean(axis=1, keepdims=True)
    value, without, count = float(means[0, 0]), means[1:], len(pairs.one)
    if of.draws.max() < 2:
        why = NotEstimable("one draw of each calibration gives no interval")
        return IntervalEstimate(value, why, why, count)
    # Without the only draw of a calibration nothing is left of it, and its luck is not known.
    if np.isnan(without).any():
        why = NotEstimable("too few draws for an interval")
        return IntervalEstimate(value, why, why, count)
    error, freedom = _jackknife(without, of.calibration)
    draws = VariancePart(float(error[0]) ** 2, float(freedom[0]))
    items = item_parts(of, lambda values: pairs.weights[0] @ gaps(of, values, vary, pairs))
    width = math.hypot(half_width([draws]), half_width(items))
    return IntervalEstimate(value, max(0.0, value - width), value + width, count)


def figures(of: Core, vary: str) -> Floats:
    """Mean absolute differences of each response: in all (row 0), and without each draw in turn.

    Args:
        of: A balanced core.
        vary: As in `moved`.

    Returns:
        Shape (1 + draws, responses); NaN where no pair is left.
    """
    pairs = pairs_of(of.calibration, vary)
    found: Floats = pairs.weights @ gaps(of, of.values, vary, pairs)
    return found


def _unknown(of: Core, vary: str) -> NotEstimable | None:
    if vary == "calibration":
        return None if len(of.calibrations) > 1 else NotEstimable("there is one calibration only")
    if (of.draws < 2).all():
        return NotEstimable("no configuration has two draws; run each with draws of several seeds")
    if vary == "search" and len(of.searches) < 2:
        return NotEstimable("there is one search only that every draw saw")
    if vary == "objective" and not any(levels_compared(of, vary)):
        return NotEstimable("there is one objective only that every draw saw")
    return None


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
    compared = {vary: pairs_of(of.calibration, vary) for vary in ("calibration", "search")}
    found = _differences(of, of.values, compared)
    value, pairs = float(found[0, 0]), len(compared["calibration"].one)
    if np.isnan(found).any():
        why = NotEstimable("two draws of a calibration give no interval; run at least three")
        return Difference(IntervalEstimate(value, why, why, pairs), why)
    error = float(_jackknife(found[1:], of.calibration)[0][0])
    items = item_parts(
        of,
        lambda values: np.subtract(
            *(pairs.weights[0] @ gaps(of, values, v, pairs) for v, pairs in compared.items())
        ),
    )
    of_items = half_width(items)
    if error <= 1e-12 * max(1.0, abs(value)):
        estimate = IntervalEstimate(value, value - of_items, value + of_items, pairs)
        return Difference(estimate, 0.0 if abs(value) > of_items else 1.0)
    tables = made_anew(of, resamples, np.random.default_rng(seed))
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
    of: Core, values: Floats, compared: dict[str, DrawPairs], responses: int | None = None
) -> Floats:
    """Calibration's figure less search's: in all, and without each draw, of each table.

    Args:
        of: Says what the axes are.
        values: Shape (draws, searches, blocks, tables × responses).
        compared: By `pairs_of`, for both factors.
        responses: How many a table has; None for one table of all.

    Returns:
        Shape (1 + draws, tables).
    """
    more = np.subtract(
        *(pairs.weights @ gaps(of, values, vary, pairs) for vary, pairs in compared.items())
    )
    tables: Floats = more.reshape(len(more), -1, responses or more.shape[1]).mean(axis=2)
    return tables
