"""How far a difference can be from what it seems: confidence radii that hold at all rounds at once.

The radius is that of an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
Statistics 2024, one-sided form). Since variances are estimated from few windows, it is widened by
the ratio of Student's to the normal's quantile. That is an approximation: the guarantee is for many
windows with a finite variance, not for each finite number. Losses without a known range have no
strict bound that saves windows. Those with one (accuracy) are raced by a strict one: Bernstein's
for sampling without replacement (Bardenet and Maillard, "Concentration inequalities for sampling
without replacement", Bernoulli 2015, Theorem 4.3), shared among the rounds.

The chance of an error, δ, is shared among the pairs of a candidate that is kept and one that is
not. It is δ for one ask; a search of many asks makes many such choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.racing.differences import Strata
from depthprune.evaluator.racing.rounds import FIRST_ROUND, GROWTH
from depthprune.evaluator.racing.settings import Racing

Array = NDArray[np.float64]

_TIGHTEST = 0.25
_LEAST_SURE = 0.25


def bound_for(
    settings: Racing, candidates: int, wanted: int, windows: int, width: float | None
) -> Bound:
    """The bound of a race: δ is shared among the pairs of a kept and a dropped candidate.

    Args:
        settings: How sure the race must be.
        candidates: How many there are.
        wanted: How many are kept.
        windows: Of the whole calibration.
        width: The range of what a window adds to a loss, times the windows, if it has one.
    """
    alpha = settings.delta / (wanted * (candidates - wanted))
    if width is None:
        # The sequence is made for small chances; from a half on it has no radius at all.
        return Asymptotic(min(alpha, _LEAST_SURE), _TIGHTEST * windows)
    # A strict bound holds at one round; the chance of an error is shared among them.
    most = 1 + int(np.ceil(np.log(max(windows / FIRST_ROUND, 1.0)) / np.log(GROWTH)))
    return Bernstein(alpha / most, 2 * width)


class Bound:
    """Turns the standard error of a difference into its radius."""

    estimated: ClassVar[bool] = False
    """Whether it trusts in estimated variances alone, and may have better estimates of them."""

    def radius(self, errors: Array, freedom: Array, strata: Strata) -> Array:
        """Radii of differences; infinite where nothing is known.

        Args:
            errors: Standard errors, of any shape.
            freedom: Degrees of freedom of each, of the same.
            strata: Of the windows seen.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Asymptotic(Bound):
    """The asymptotic confidence sequence, one-sided, at level α.

    Attributes:
        alpha: Chance of one difference ever being beyond its radius.
        tightest: The number of windows at which the sequence is tightest.
    """

    estimated: ClassVar[bool] = True
    alpha: float
    tightest: float

    def radius(self, errors: Array, freedom: Array, strata: Strata) -> Array:
        """See `Bound.radius`."""
        seen = len(strata.groups)
        level = -2 * np.log(2 * self.alpha)
        rho = (level + np.log(level) + 1) / max(self.tightest, 1.0)
        inside = seen * rho + 1
        factor = np.sqrt(2 * inside / (seen * rho) * np.log(1 + np.sqrt(inside) / (2 * self.alpha)))
        wider = _student(self.alpha, freedom)
        # Of windows that are all seen no error is left, however little tells of their spread.
        answer: Array = np.zeros_like(errors)
        np.multiply(errors * factor, wider, out=answer, where=errors != 0)
        return answer


def _student(alpha: float, freedom: Array) -> Array:
    """How much wider Student's quantile is than the normal's; infinite below one degree."""
    from scipy import stats

    distinct, place = np.unique(np.maximum(freedom, 1.0), return_inverse=True)
    ratios = stats.t.isf(alpha, distinct) / stats.norm.isf(alpha)
    answer: Array = np.where(freedom < 1, np.inf, ratios[place].reshape(freedom.shape))
    return answer


@dataclass(frozen=True)
class Bernstein(Bound):
    """The empirical Bernstein–Serfling bound for losses of a known range.

    Attributes:
        alpha: Chance of one difference being beyond its radius at one of the rounds.
        width: The range of a difference.
    """

    alpha: float
    width: float

    def radius(self, errors: Array, freedom: Array, strata: Strata) -> Array:
        """See `Bound.radius`."""
        seen, total = len(strata.groups), int(strata.totals.sum())
        if seen >= total:
            return np.zeros(errors.shape)
        left = 1 - seen / total
        rho = 1 - (seen - 1) / total if seen <= total / 2 else left * (1 + 1 / seen)
        logs = np.log(5 / self.alpha)
        # The bound's σ² has 1/m where the standard error has 1/(m−1) and the finite factor.
        variance = errors**2 * (seen - 1) / left
        kappa = 7 / 3 + 3 / np.sqrt(2)
        answer: Array = np.sqrt(2 * rho * variance * logs / seen) + kappa * self.width * logs / seen
        return answer
