"""How far a difference can be from what it seems: radii that hold at all rounds at once.

A radius is a number of standard errors: that of a boundary made for the rounds that the race has
(`boundary`). Since variances are estimated from few windows, Student's quantile stands in place of
the normal's for the same chance (Jennison and Turnbull, "Group sequential methods with applications
to clinical trials", 2000). With normal differences the chance of an error is then the one given,
from three windows on. It is an approximation for others: where one window in eight carries all of
a difference, hardly a bound from few windows holds. Losses without a known range have no strict one
that saves windows. Those with a range (accuracy) are raced by a strict bound, Bernstein's for
sampling without replacement (Bardenet and Maillard, "Concentration inequalities for sampling
without replacement", Bernoulli 2015, Theorem 4.3), shared among the rounds.

How the chance of an error is shared among the candidates: see `chances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.racing.boundary import critical
from depthprune.evaluator.racing.differences import Strata

Array = NDArray[np.float64]


def bound_for(looks: Sequence[int], total: int, width: float | None) -> Bound:
    """The bound of a race.

    Args:
        looks: Windows seen after each round that leaves any unseen.
        total: Of all windows.
        width: The range of what a window adds to a loss, times the windows, if it has one.
    """
    if width is None:
        return Sequential(tuple(looks), total)
    # A strict bound holds at one round; the chance of an error is shared among them.
    return Bernstein(len(looks), 2 * width)


class Bound:
    """Turns the standard error of a difference into its radius."""

    estimated: ClassVar[bool] = False
    """Whether it trusts in estimated variances alone, and may have better estimates of them."""

    def radius(self, errors: Array, freedom: Array, strata: Strata, chances: Array) -> Array:
        """Radii of differences; infinite where nothing is known.

        Args:
            errors: Standard errors, shape (n, m).
            freedom: Degrees of freedom of each, of the same.
            strata: Of the windows seen.
            chances: That a difference of a row is ever beyond its radius, shape (n, 1).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Sequential(Bound):
    """A group-sequential boundary, one-sided, with Student's quantiles.

    Attributes:
        looks: Windows seen after each round that leaves any unseen.
        total: Of all windows.
    """

    estimated: ClassVar[bool] = True
    looks: tuple[int, ...]
    total: int

    def radius(self, errors: Array, freedom: Array, strata: Strata, chances: Array) -> Array:
        """See `Bound.radius`."""
        answer: Array = np.zeros_like(errors)
        seen = len(strata.groups)
        if seen < self.total:
            values = _student(critical(self.looks, self.total, seen, chances), freedom)
            # Of what does not vary no error is left, however little tells of its spread.
            np.multiply(errors, values, out=answer, where=errors != 0)
        return answer


def _student(values: Array, freedom: Array) -> Array:
    """Student's quantiles for the chances of the normal's; infinite below one degree.

    Args:
        values: Of the normal, shape (n, 1).
        freedom: Degrees of freedom, shape (n, m).
    """
    from scipy.special import ndtr, stdtrit

    distinct, place = np.unique(np.maximum(freedom, 1.0), return_inverse=True)
    tails = ndtr(-values)
    # For a chance of 0 scipy gives the quantile of 1.
    quantiles = np.where(tails > 0, -stdtrit(distinct, tails), np.inf)
    found = np.take_along_axis(quantiles, place.reshape(freedom.shape), axis=1)
    answer: Array = np.where(freedom < 1, np.inf, found)
    return answer


@dataclass(frozen=True)
class Bernstein(Bound):
    """The empirical Bernstein–Serfling bound for losses of a known range.

    Attributes:
        rounds: How many there are; the chance is shared among them.
        width: The range of a difference.
    """

    rounds: int
    width: float

    def radius(self, errors: Array, freedom: Array, strata: Strata, chances: Array) -> Array:
        """See `Bound.radius`."""
        seen, total = len(strata.groups), int(strata.totals.sum())
        if seen >= total:
            return np.zeros(errors.shape)
        left = 1 - seen / total
        rho = 1 - (seen - 1) / total if seen <= total / 2 else left * (1 + 1 / seen)
        logs = np.log(5 * self.rounds / chances)
        # The bound's σ² has 1/m where the standard error has 1/(m−1) and the finite factor.
        variance = errors**2 * (seen - 1) / left
        kappa = 7 / 3 + 3 / np.sqrt(2)
        answer: Array = np.sqrt(2 * rho * variance * logs / seen) + kappa * self.width * logs / seen
        return answer
