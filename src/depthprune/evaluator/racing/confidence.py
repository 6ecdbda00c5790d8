"""Racing: deciding which candidates are among the k best from as few windows as it takes.

All candidates are scored on the same windows, drawn without replacement from the calibration, in
growing rounds. After each, candidates that are surely not among those wanted drop out, and those
that surely are need no more windows. "Surely" means that the difference of two candidates, taken
window by window, is beyond its confidence radius; a difference within the tolerance is a tie and
needs no proof.

The radius is that of an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
Statistics 2024, one-sided form), which holds at all rounds at once, with two additions. The
variance is multiplied by 1 − m/W, the share of the windows not yet seen: the question is what the
loss over all W windows will be, and when all are seen nothing is uncertain. And since the variance
itself is estimated from few windows, the radius is widened by the ratio of Student's to the
normal's quantile. Both are approximations: the guarantee is for many windows with a finite
variance, not for each finite number. Losses without a known range have no strict bound that saves
windows. Those with one (accuracy) are raced by a strict one: Bernstein's for sampling without
replacement (Bardenet and Maillard, "Concentration inequalities for sampling without replacement",
Bernoulli 2015, Theorem 4.3), shared among the rounds.

The chance of an error, δ, is shared among the pairs of a candidate that is kept and one that is
not. It is δ for one ask; a search of many asks makes many such choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.racing.settings import Racing

Array = NDArray[np.float64]

_FIRST_ROUND = 4
_GROWTH = 1.3
_TIGHTEST = 0.25
_LEAST_SURE = 0.25
"""On 4,096 tokens of WikiText these cost 0.43 to 0.46 of all losses, whatever the first round; a
growth of 1.6 costs a tenth more."""


@dataclass(frozen=True)
class Strata:
    """How windows make a loss, for those seen so far: one stratum a source.

    Attributes:
        groups: Source of each window seen, shape (m,).
        sizes: Scored tokens (or other weight inside its source) of each, shape (m,).
        shares: Share of each source, shape (sources,).
        totals: Number of windows of each source in the whole calibration, shape (sources,).
    """

    groups: NDArray[np.int64]
    sizes: Array
    shares: Array
    totals: NDArray[np.int64]

    def weights(self) -> Array:
        """Each seen window's share of the loss, shape (m,)."""
        seen = np.bincount(self.groups, weights=self.sizes, minlength=len(self.shares))
        answer: Array = self.shares[self.groups] * self.sizes / seen[self.groups]
        return answer


@dataclass(frozen=True)
class Decision:
    """What a round decides of the candidates still in the race.

    Attributes:
        kept: Which are surely among the wanted.
        dropped: Which are surely not.
    """

    kept: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


def rounds(groups: Sequence[int], order: Sequence[int], least: int) -> list[list[int]]:
    """Places of windows in growing rounds.

    Sources take part in each round in proportion, so that every round is a small calibration; two
    windows of each are in the first, since nothing is decided before every source has a spread.

    Args:
        groups: Source of each window of the calibration.
        order: A permutation of the windows.
        least: Windows that make a round worth its call.

    Returns:
        Disjoint rounds, together all windows.
    """
    count = len(order)
    of_source: dict[int, list[int]] = {}
    for place in order:
        of_source.setdefault(groups[place], []).append(place)
    ends = []
    end = float(max(_FIRST_ROUND, least, 3 * len(of_source)))
    while end < count:
        ends.append(int(end))
        end = max(end * _GROWTH, end + least)
    # A last round of a few windows would pay for a whole walk to decide next to nothing.
    if ends and count - ends[-1] < least:
        ends.pop()
    ends.append(count)
    answer: list[list[int]] = []
    begins = dict.fromkeys(of_source, 0)
    for stop in ends:
        taken = []
        for source, places in of_source.items():
            until = max(min(2, len(places)), round(stop / count * len(places)))
            taken += places[begins[source] : until]
            begins[source] = until
        if taken:
            answer.append(taken)
    return answer


def decide(losses: Array, strata: Strata, wanted: int, settings: Bound, tie: float) -> Decision:
    """Which candidates are surely in, or surely out.

    Args:
        losses: Of the candidates still in the race on the windows seen, shape (n, m), finite.
        strata: How those windows make a loss.
        wanted: How many of them are wanted, from 1 to n − 1.
        settings: The bound.
        tie: Differences of the losses up to this are ties.
    """
    means, spread = _means_and_spread(losses, strata)
    # margin[i, j] > 0: i is surely no worse than j by more than a tie.
    margin = (means[None, :] - means[:, None]) + tie - settings.radius(spread, strata)
    beats = margin > 0
    np.fill_diagonal(beats, False)
    # Of two that tie both may "beat" the other; the lower mean decides, then the order.
    rank = np.empty(len(means), dtype=np.int64)
    rank[np.argsort(means, kind="stable")] = np.arange(len(means))
    beats &= rank[:, None] < rank[None, :]
    return Decision(kept=beats.sum(1) >= len(means) - wanted, dropped=beats.sum(0) >= wanted)


def _means_and_spread(losses: Array, strata: Strata) -> tuple[Array, Array]:
    """Mean loss of each candidate, and the standard error of each difference, shape (n, n)."""
    means = np.zeros(len(losses))
    residuals = np.zeros(losses.shape)
    for source, share in enumerate(strata.shares):
        inside = strata.groups == source
        seen = int(inside.sum())
        if not seen:
            # A source of which nothing was seen may turn any difference round.
            residuals[:] = np.inf
            continue
        sizes = strata.sizes[inside]
        part = losses[:, inside]
        centre = part @ sizes / sizes.sum()
        means += share * centre
        left = 1 - seen / strata.totals[source]
        # With one window seen nothing is known of the spread; only a source seen whole has none.
        scale = np.sqrt(left / (seen * (seen - 1))) if seen > 1 else (np.inf if left else 0.0)
        with np.errstate(invalid="ignore"):
            deviations = share * sizes / sizes.mean() * (part - centre[:, None]) * scale
        residuals[:, inside] = np.where(np.isnan(deviations), np.inf, deviations)
    if not np.isfinite(residuals).all():
        return means, np.full((len(losses), len(losses)), np.inf)
    squares = (residuals**2).sum(1)
    cross = residuals @ residuals.T
    return means, np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * cross, 0.0))


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
    most = 1 + int(np.ceil(np.log(max(windows / _FIRST_ROUND, 1.0)) / np.log(_GROWTH)))
    return Bernstein(alpha / most, 2 * width)


class Bound:
    """Turns the standard error of a difference into its radius."""

    def radius(self, spread: Array, strata: Strata) -> Array:
        """Radii, of the shape of `spread`; infinite where nothing is known."""
        raise NotImplementedError


@dataclass(frozen=True)
class Asymptotic(Bound):
    """The asymptotic confidence sequence, one-sided, at level α.

    Attributes:
        alpha: Chance of one difference ever being beyond its radius.
        tightest: The number of windows at which the sequence is tightest.
    """

    alpha: float
    tightest: float

    def radius(self, spread: Array, strata: Strata) -> Array:
        """See `Bound.radius`."""
        seen = len(strata.groups)
        level = -2 * np.log(2 * self.alpha)
        rho = (level + np.log(level) + 1) / max(self.tightest, 1.0)
        inside = seen * rho + 1
        factor = np.sqrt(2 * inside / (seen * rho) * np.log(1 + np.sqrt(inside) / (2 * self.alpha)))
        answer: Array = spread * factor * _student(self.alpha, seen - len(strata.shares))
        return answer


def _student(alpha: float, freedom: int) -> float:
    """How much wider Student's quantile is than the normal's."""
    from scipy import stats

    if freedom < 1:
        return float("inf")
    return float(stats.t.isf(alpha, freedom) / stats.norm.isf(alpha))


@dataclass(frozen=True)
class Bernstein(Bound):
    """The empirical Bernstein–Serfling bound for losses of a known range.

    Attributes:
        alpha: Chance of one difference being beyond its radius at one of the rounds.
        width: The range of a difference.
    """

    alpha: float
    width: float

    def radius(self, spread: Array, strata: Strata) -> Array:
        """See `Bound.radius`."""
        seen, total = len(strata.groups), int(strata.totals.sum())
        if seen >= total:
            return np.zeros(spread.shape)
        left = 1 - seen / total
        rho = 1 - (seen - 1) / total if seen <= total / 2 else left * (1 + 1 / seen)
        logs = np.log(5 / self.alpha)
        # The bound's σ² has 1/m where the standard error has 1/(m−1) and the finite factor.
        variance = spread**2 * (seen - 1) / left
        kappa = 7 / 3 + 3 / np.sqrt(2)
        answer: Array = np.sqrt(2 * rho * variance * logs / seen) + kappa * self.width * logs / seen
        return answer
