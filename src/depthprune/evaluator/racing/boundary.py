"""How many standard errors a difference must be beyond: a boundary for the rounds that a race has.

A race looks at its differences after rounds that are known before it begins. With n of N windows
drawn without replacement, a difference's estimate less what all windows show, times the information
I = 1/(1/n − 1/N), is a Brownian motion in I: two rounds are correlated by √(Iⱼ/Iₖ), and what comes
depends on the last round alone. So the chance that a round is the first beyond a boundary is a
chain of integrals over one variable (Armitage, McPherson and Rowe, "Repeated significance tests on
accumulating data", 1969), and the boundary is found round by round, from what chance each may
spend (Lan and DeMets, "Discrete sequential boundaries for clinical trials", 1983). A bound that
holds at every number of windows is wider by an eighth, for numbers that no race looks at.

Up to a round, the chance is spent as the root of its windows. What is decided early saves all
windows behind it, and most candidates are so far behind that few tell; those that are close need
what is left later.

Windows count alike here. Where sources differ in share or spread, or an earlier ask tells of
windows not yet seen, rounds are correlated a little otherwise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHANCES: Array = 0.25 * 4.0 ** -np.arange(20.0)
"""From a quarter, above which hardly anything is asked to be sure, to what no estimate can show."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_LOWEST = -6.0
"""Standard errors below which nothing comes back."""
_HALVINGS = 40


def critical(looks: tuple[int, ...], total: int, seen: int, chances: Array) -> Array:
    """Standard errors that a difference must be beyond at a round; infinite for too small a chance.

    Args:
        looks: Windows seen after each round, growing, all below `total`.
        total: Of all windows.
        seen: After the round that is asked for.
        chances: That a difference which is none is ever beyond.
    """
    squares = _boundary(looks, total)[:, looks.index(seen)] ** 2
    # Squares of quantiles are nearly a line in the chance's logarithm, and curved to the safe side.
    logs = np.log(np.minimum(chances, _CHANCES[0]))
    answer: Array = np.sqrt(np.interp(logs, np.log(_CHANCES[::-1]), squares[::-1], left=np.inf))
    return answer


@lru_cache(maxsize=32)
def _boundary(looks: tuple[int, ...], total: int) -> Array:
    """Critical values for each of the chances at each round."""
    from scipy.special import ndtr, ndtri

    windows = np.array(looks, dtype=np.float64)
    times = 1 / (1 / windows - 1 / total)
    spent = _CHANCES[:, None] * np.sqrt(windows / windows[-1])
    found = np.empty(spent.shape)
    places, mass = np.empty(0), np.empty(0)
    for look in range(len(looks)):
        before = spent[:, [look - 1]] if look else np.zeros((len(spent), 1))
        given = spent[:, [look]] - before
        high = -ndtri(given)
        if look:
            pull = np.sqrt(times[look - 1] / times[look])
            apart = np.sqrt(1 - pull**2)
            low = -ndtri(spent[:, [look]])
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                beyond = (mass * ndtr((pull * places - middle) / apart)).sum(1, keepdims=True)
                low = np.where(beyond > given, middle, low)
                high = np.where(beyond > given, high, middle)
        found[:, look] = high[:, 0]
        half = (high - _LOWEST) / 2
        to = _LOWEST + half * (_NODES + 1)
        if look:
            steps = (to[:, :, None] - pull * places[:, None, :]) / apart
            density = (_normal(steps) / apart * mass[:, None, :]).sum(2)
        else:
            density = _normal(to)
        places, mass = to, density * half * _WEIGHTS
    return found


def _normal(values: Array) -> Array:
    answer: Array = np.exp(-(values**2) / 2) / np.sqrt(2 * np.pi)
    return answer
