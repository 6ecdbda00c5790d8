"""Which calibrations may be the best on all that was judged, and how far the others stand behind.

Each is compared with the one that did best here, by means over its draws. Those that cannot be told
from it may be the best: with 95% the truly best is among them (subset selection, Gupta 1965, with
Bonferroni over the calibrations). Which of them that is stays open, and that one came out best is
seen from the same draws; so how far a calibration is behind spans what it is behind any of them
(multiple comparisons with the best, Hsu 1984), and then all intervals hold together. Nothing is
behind the best by less than nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import ALPHA, VariancePart, half_width, item_parts


@dataclass(frozen=True)
class Standing:
    """One calibration on one measure.

    Attributes:
        calibration: Its name.
        mean: Mean log-perplexity or accuracy over its draws, and all searches, k and objectives,
            texts or tasks, each alike.
        behind: By how much it is worse than the one that came out best, with the interval of how
            much worse it is than the truly best; of the one that came out best nothing.
        may_be_best: Whether it came out best, or cannot be told from what did.
    """

    calibration: str
    mean: float
    behind: IntervalEstimate | None
    may_be_best: bool


def standings(of: Core, *, lower_is_better: bool) -> tuple[Standing, ...] | NotEstimable:
    """All calibrations of a core, the best first.

    Args:
        of: A balanced core with the responses of one kind.
        lower_is_better: Whether the responses are losses.
    """
    count = len(of.calibrations)
    if count < 2:
        return NotEstimable("there is one calibration only")
    each = of.values.mean(axis=(1, 2, 3))
    means = np.bincount(of.calibration, weights=each) / of.draws
    behind = means if lower_is_better else -means
    order = np.argsort(behind, kind="stable").tolist()
    if (of.draws < 2).any():
        why = NotEstimable("one draw of a calibration gives no interval")
        found = {
            place: IntervalEstimate(
                float(behind[place] - behind[order[0]]), why, why, int(of.draws[place])
            )
            for place in order[1:]
        }
        may = order
    else:
        found, may = _compared(of, each, behind, order)
    return tuple(
        Standing(of.calibrations[place], float(means[place]), found.get(place), place in may)
        for place in order
    )


def _compared(
    of: Core, each: Floats, behind: Floats, order: list[int]
) -> tuple[dict[int, IntervalEstimate], list[int]]:
    """How far all but the first are behind, and which may be the best.

    Args:
        of: A balanced core.
        each: The mean of each draw.
        behind: The mean of each calibration, lower the better.
        order: The calibrations by it.
    """
    width = partial(_half_width, of, each)
    best = order[0]
    may = [p for p in order if p == best or behind[p] - behind[best] <= width(p, best)]
    found = {}
    for place in order[1:]:
        spans = [(behind[place] - behind[j], width(place, j)) for j in may if j != place]
        low = max(0.0, min(apart - half for apart, half in spans))
        high = max(0.0, max(apart + half for apart, half in spans))
        value = float(behind[place] - behind[best])
        found[place] = IntervalEstimate(value, float(low), float(high), int(of.draws[place]))
    return found, may


def _half_width(of: Core, each: Floats, one: int, other: int) -> float:
    """Of the interval of a difference of two calibrations, as one of many."""
    level = ALPHA / (len(of.calibrations) - 1)
    own = [_spread(each, of.calibration, c) for c in (one, other)]
    items = item_parts(of, partial(_apart, of, one, other))
    return math.hypot(half_width(own, level), half_width(items, level))


def _spread(each: Floats, calibration: Ints, of: int) -> VariancePart:
    own = each[calibration == of]
    return VariancePart(float(own.var(ddof=1) / len(own)), float(len(own) - 1))


def _apart(of: Core, one: int, other: int, values: Floats) -> Floats:
    """How much more the draws of one calibration have than another's, shape (responses,)."""
    first, second = (values[of.calibration == c].mean(axis=(0, 1, 2)) for c in (one, other))
    apart: Floats = first - second
    return apart
