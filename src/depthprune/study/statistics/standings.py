"""Which calibrations may be the best on all that was judged, and how far the others stand behind.

Each is compared with the one that did best here, by means over its draws, and all intervals hold
together (Bonferroni over the comparisons). Those whose interval contains 0 may be the best, and
with 95% the truly best is among them (subset selection, Gupta 1965, whose intervals are narrower).
That a calibration came out best is chosen after the fact, which such a subset allows for and a
single comparison would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import ALPHA, VariancePart, half_width, item_parts


@dataclass(frozen=True)
class Standing:
    """One calibration on one measure.

    Attributes:
        calibration: Its name.
        mean: Mean log-perplexity or accuracy over its draws, and all searches, k and objectives,
            texts or tasks, each alike.
        behind: By how much it is worse than the best, for further draws of both; of the best
            itself nothing.
    """

    calibration: str
    mean: float
    behind: IntervalEstimate | None

    @property
    def may_be_best(self) -> bool:
        """Whether it is the best here, or cannot be told from it."""
        if self.behind is None:
            return True
        ends = self.behind.interval
        return isinstance(ends, NotEstimable) or ends[0] <= 0


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
    draws = np.bincount(of.calibration)
    means = np.bincount(of.calibration, weights=each) / draws
    order = np.argsort(means if lower_is_better else -means, kind="stable")
    best = int(order[0])
    sign = 1.0 if lower_is_better else -1.0
    found = [Standing(of.calibrations[best], float(means[best]), None)]
    for place in order[1:].tolist():
        value = sign * float(means[place] - means[best])
        if (draws[[best, place]] < 2).any():
            why = NotEstimable("one draw of a calibration gives no interval")
            behind = IntervalEstimate(value, why, why, int(draws[place]))
        else:
            own = [
                VariancePart(
                    float(each[of.calibration == c].var(ddof=1) / draws[c]), float(draws[c] - 1)
                )
                for c in (best, place)
            ]
            level = ALPHA / (count - 1)
            items = item_parts(of, partial(_apart, of, place, best))
            width = math.hypot(half_width(own, level), half_width(items, level))
            behind = IntervalEstimate(value, value - width, value + width, int(draws[place]))
        found.append(Standing(of.calibrations[place], float(means[place]), behind))
    return tuple(found)


def _apart(of: Core, one: int, other: int, values: Floats) -> Floats:
    """How much more the draws of one calibration have than another's, shape (responses,)."""
    first, second = (values[of.calibration == c].mean(axis=(0, 1, 2)) for c in (one, other))
    apart: Floats = first - second
    return apart
