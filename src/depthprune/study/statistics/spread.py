"""How far searches spread within a configuration: variance, range, and a robust form.

The paper reports the population variance (ddof 0) of a metric over searches and its range. One
search that breaks down makes both as large as it likes, so a third figure is given: the median
absolute deviation of log-perplexity, times 1.4826 to estimate σ where values are normal
(Hampel 1974).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.estimates import NotEstimable

_NORMAL = 1.482602218505602


@dataclass(frozen=True)
class MetricSpread:
    """The spread of one metric over searches.

    Attributes:
        variance: With ddof 0, in squared units of the metric.
        range: Largest minus smallest, in units of the metric.
        robust: 1.4826 × MAD, of the logarithm where the metric is a perplexity.
    """

    variance: float
    range: float
    robust: float


def spread(values: Sequence[float], *, logarithm: bool) -> MetricSpread | NotEstimable:
    """σ², range and robust σ of one configuration's searches.

    Args:
        values: The metric, one a search.
        logarithm: Take the logarithm for the robust form; for perplexities.
    """
    if len(values) < 2:
        return NotEstimable("one search has no spread")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        return NotEstimable("a value is not finite")
    inner = np.log(array) if logarithm else array
    deviation = np.median(np.abs(inner - np.median(inner)))
    return MetricSpread(
        variance=float(array.var()),
        range=float(np.ptp(array)),
        robust=_NORMAL * float(deviation),
    )
