"""Variances of differences from few windows, each helped out by those of the other candidates.

Four windows say little of one variance, and Student's quantile at three degrees of freedom is so
wide that nothing drops out before eight were seen. But there are many candidates, and what a
difference varies by goes with how large it is. So each variance is drawn towards the trend of all
(Smyth, "Linear models and empirical Bayes methods for assessing differential expression in
microarray experiments", 2004; with a trend, Sartor et al. 2006), and counts as known from as many
more windows as the scatter around the trend says.

Smyth's variances are independent. These share the reference that all are compared with, so they
scatter less than they err, and the trend would be trusted too far. Over random orders of the
windows of greedy's candidates on SmolLM2, differences went beyond the quantile for 1 in 10,000
17 times as often from four windows, and 8 times from eight. With the trend trusted no more than
twice the windows themselves (`_TRUSTED`) it is 1.4 and 2.5 times, much as without any of this
(1.0 and 1.7).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TRUSTED = 2.0
_FEWEST = 6
"""Variances that make a trend."""


def moderated(variances: Array, sizes: Array, freedom: float) -> tuple[Array, Array]:
    """Better variances, and the degrees of freedom of each.

    Args:
        variances: Of differences from one reference, shape (n,).
        sizes: How large each difference is, above 0, shape (n,).
        freedom: Of each variance, at least 1.

    Returns:
        Both of shape (n,). A variance of 0 says that nothing differs and stays as it is, and so do
        all where there are too few.
    """
    from scipy.special import polygamma, psi

    known = (variances > 0) & np.isfinite(variances)
    free: Array = np.full(len(variances), float(freedom))
    if known.sum() < _FEWEST:
        return variances, free
    half = freedom / 2
    logs = np.log(variances[known]) - psi(half) + np.log(half)
    at = np.log(sizes[known])
    terms = np.stack([np.ones_like(at), at, at**2], axis=1)
    fitted = terms @ np.linalg.lstsq(terms, logs, rcond=None)[0]
    scatter = ((logs - fitted) ** 2).sum() / (len(logs) - terms.shape[1]) - polygamma(1, half)
    prior = min(_freedom_of(float(scatter)), _TRUSTED * freedom)
    trend = np.exp(fitted + psi(prior / 2) - np.log(prior / 2))
    answer = variances.copy()
    answer[known] = (prior * trend + freedom * variances[known]) / (prior + freedom)
    free[known] += prior
    return answer, free


def _freedom_of(scatter: float) -> float:
    """The degrees of freedom of variances whose logarithms have this variance of their own."""
    from scipy.special import polygamma

    if scatter <= 0:
        return float("inf")
    # Newton's method on 1/ψ′, which is nearly a line; from below it never overshoots.
    half = 0.5 + 1 / scatter
    for _ in range(20):
        value = float(polygamma(1, half))
        step = value * (1 - value / scatter) / float(polygamma(2, half))
        half += step
        if abs(step) < 1e-8 * half:
            break
    return 2 * half
