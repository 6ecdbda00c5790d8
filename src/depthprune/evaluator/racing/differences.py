"""What the losses on some windows say of the differences that all windows would show.

A difference is taken window by window, and its error is that of windows drawn without replacement:
the variance is multiplied by 1 − m/W, the share not yet seen, since the question is what the loss
over all W windows will be, and when all are seen nothing is uncertain.

Where an earlier ask of the search scored the candidates' predecessors, sets that differ in the same
blocks, on more windows than were drawn now, that tells more: what two predecessors differ by on all
that both saw is known, and only what the candidates differ by beyond it is to be estimated (double
sampling, Cochran, "Sampling techniques", chapter 12, with a slope of 1). How far that narrows a
difference is itself an estimate, and from few windows too good a one too often, so at most half of
its error is taken off (`_LEAST`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from depthprune.evaluator.racing.moderated import moderated

Array = NDArray[np.float64]

_LEAST = 0.25
"""Of a variance, what an earlier ask leaves at least. With less, differences on SmolLM2 went beyond
the quantile for 1 in 10,000 47 times as often, from four windows and predecessors that saw all 32;
with this twice."""

_ROUNDING = 1e-12
_SMALL = 1e-3
"""Of the largest difference: what is smaller lies on the trend of variances as if it were this."""


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

    @property
    def seen(self) -> NDArray[np.int64]:
        """Windows of each source that were seen, shape (sources,)."""
        seen: NDArray[np.int64] = np.bincount(self.groups, minlength=len(self.shares))
        return seen

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a variance between them."""
        return len(self.groups) - len(self.shares)

    def weights(self) -> Array:
        """Each seen window's share of the loss, shape (m,)."""
        seen = np.bincount(self.groups, weights=self.sizes, minlength=len(self.shares))
        answer: Array = self.shares[self.groups] * self.sizes / seen[self.groups]
        return answer

    def first(self, count: int) -> Strata:
        """The same of the first windows alone."""
        return replace(self, groups=self.groups[:count], sizes=self.sizes[:count])


@dataclass(frozen=True)
class Earlier:
    """What predecessors of the candidates lost in an earlier ask.

    Attributes:
        losses: On all windows in the order in which they are drawn, shape (n, windows); NaN where
            one was not seen, and for a candidate without a predecessor.
        strata: Of those windows.
    """

    losses: Array
    strata: Strata

    def known(self) -> NDArray[np.int64]:
        """How many of the first windows each predecessor saw, shape (n,)."""
        missing = np.isnan(self.losses)
        known: NDArray[np.int64] = np.where(missing.any(1), missing.argmax(1), missing.shape[1])
        return known


@dataclass(frozen=True)
class Differences:
    """Of every two candidates i and j, how much more j loses.

    Attributes:
        means: Of the candidates on the windows seen, shape (n,).
        values: Estimates, shape (n, n).
        errors: Their standard errors, shape (n, n); infinite where nothing is known.
        freedom: Degrees of freedom of those, shape (n, n).
    """

    means: Array
    values: Array
    errors: Array
    freedom: Array


def differences(losses: Array, strata: Strata, earlier: Earlier | None = None) -> Differences:
    """What the windows seen say of the differences over all.

    Args:
        losses: Of the candidates on those windows, shape (n, m), finite.
        strata: How those windows make a loss.
        earlier: Of the same candidates.
    """
    means, scatter = _means_and_scatter(losses, strata)
    values = means[None, :] - means[:, None]
    variances = _variances(scatter, strata, _factors(strata, strata.totals))
    freedom = np.full(values.shape, float(strata.freedom))
    if earlier is not None and np.isfinite(variances).all():
        values, variances = _with_earlier(values, variances, scatter, strata, earlier)
    return Differences(means, values, np.sqrt(variances), freedom)


def pooled(found: Differences, references: Sequence[int], least: float) -> Differences:
    """The errors of differences from some candidates, helped out by one another's.

    Args:
        found: Of all candidates.
        references: From which; other differences stay as they are.
        least: A difference that is as good as none.
    """
    if found.freedom.min() < 1:
        return found
    errors, freedom = found.errors.copy(), found.freedom.copy()
    for row in references:
        inside = np.arange(len(errors)) != row
        sizes = np.abs(found.values[row, inside])
        floor = max(least, _SMALL * float(sizes.max()))
        if floor > 0:
            variances, free = moderated(
                errors[row, inside] ** 2, np.maximum(sizes, floor), float(freedom[row, 0])
            )
            errors[row, inside], freedom[row, inside] = np.sqrt(variances), free
    return replace(found, errors=errors, freedom=freedom)


def _means_and_scatter(losses: Array, strata: Strata) -> tuple[Array, Array]:
    """Mean losses, and what each window deviates by, as far as it counts; (n,) and (n, m)."""
    means, scatter = np.zeros(len(losses)), np.zeros(losses.shape)
    for source, share in enumerate(strata.shares):
        inside = strata.groups == source
        if inside.any():
            sizes = strata.sizes[inside]
            part = losses[:, inside]
            centre = part @ sizes / sizes.sum()
            means += share * centre
            scatter[:, inside] = share * sizes / sizes.mean() * (part - centre[:, None])
    return means, scatter


def _factors(strata: Strata, totals: NDArray[np.int64]) -> Array:
    """By what a source's sum of squares makes the variance of its mean, shape (sources,).

    Args:
        strata: Of the windows seen.
        totals: Of how many of each source the mean is asked for.
    """
    seen = strata.seen
    with np.errstate(divide="ignore", invalid="ignore"):
        left = 1 / seen - 1 / totals
        # With one window seen nothing is known of the spread; only a source seen whole has none.
        factors: Array = np.where(left > 0, left / (seen - 1), 0.0)
    return factors


def _variances(scatter: Array, strata: Strata, factors: Array) -> Array:
    """Of every difference, shape (n, n)."""
    if not np.isfinite(factors).all():
        # A source of which next to nothing was seen may turn any difference round.
        return np.full((len(scatter), len(scatter)), np.inf)
    scaled = scatter * np.sqrt(factors[strata.groups])
    squares = (scaled**2).sum(1)
    both = squares[:, None] + squares[None, :]
    answer: Array = both - 2 * scaled @ scaled.T
    # What is left of two that vary alike is rounding.
    answer[answer < _ROUNDING * both] = 0.0
    np.fill_diagonal(answer, 0.0)
    return answer


def _with_earlier(
    values: Array, variances: Array, scatter: Array, strata: Strata, earlier: Earlier
) -> tuple[Array, Array]:
    """Differences and variances, narrowed where predecessors saw more: see the module."""
    narrowed, left = values.copy(), variances.copy()
    known, seen = earlier.known(), len(strata.groups)
    for count in np.unique(known[known > seen]):
        pair = np.flatnonzero(known >= count)
        upto = earlier.strata.first(int(count))
        before, deviations = _means_and_scatter(earlier.losses[pair, :seen], strata)
        shift = _means_and_scatter(earlier.losses[pair, :count], upto)[0] - before
        between, whole = _factors(strata, upto.seen), _factors(strata, strata.totals)
        beyond = _variances(scatter[pair] - deviations, strata, between)
        beyond += _variances(scatter[pair], strata, whole - between)
        at = np.ix_(pair, pair)
        helps = beyond < variances[at]
        moved = values[at] + shift[None, :] - shift[:, None]
        narrowed[at] = np.where(helps, moved, values[at])
        left[at] = np.where(helps, np.maximum(beyond, _LEAST * variances[at]), variances[at])
    return narrowed, left
