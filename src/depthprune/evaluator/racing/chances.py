"""How the chance of an error is shared among the candidates that could drop another wrongly.

A race of n candidates that keeps k errs where one that is not among the true best surely beats one
that is. With a chance δ·w/k for each candidate to do so wrongly, the w adding up to 1, all of that
together has a chance of at most δ, whatever the w are. So most of it goes to those that are likely
to be the ones that beat others: the k best count alike, and behind them w falls as the square of
the rank. A good one is then believed after fewer windows, and a wrong order makes a race longer and
no less safe.

The order is the one in which an earlier ask of the search left the candidates' predecessors; where
there is none, that of the first round. That round is then seen twice, which the argument does not
allow for; what comes of it is measured (`benchmarks/racing.py`).

It is δ for one ask; a search of many asks makes many such choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FALL = 2.0
"""In greedy's second step on SmolLM2 a fall of 1 costs a tenth more, one of 3 a twentieth less."""


def chances(delta: float, values: Sequence[float], wanted: int) -> Array:
    """Of each candidate, the chance with which it may beat another wrongly.

    Args:
        delta: The chance of an error in all.
        values: By which the candidates are ordered, the best lowest.
        wanted: How many of them are kept, fewer than there are.
    """
    weights = np.empty(len(values))
    ranks = np.maximum(np.arange(1, len(values) + 1) - wanted + 1, 1)
    weights[np.argsort(values, kind="stable")] = 1.0 / ranks**_FALL
    answer: Array = delta * weights / weights.sum() / wanted
    return answer


def equal_chances(delta: float, candidates: int, wanted: int) -> float:
    """The same for each of some candidates of which no order is known."""
    return delta / (wanted * (candidates - wanted))
