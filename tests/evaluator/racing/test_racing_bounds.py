"""A strict bound is the theorem's, and one from estimated variances infinite where it must be."""

from __future__ import annotations

import numpy as np
import pytest

from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.differences import Strata

TOTAL = 100


def strata(seen: int, total: int = TOTAL) -> Strata:
    return Strata(np.zeros(seen, int), np.ones(seen), np.ones(1), np.array([total]))


@pytest.mark.parametrize("seen", [10, 50, 51, 80])
def test_the_strict_bound_is_that_of_the_theorem_at_each_of_its_rounds(seen: int) -> None:
    """Bardenet and Maillard's 4.3; a difference of two losses has twice the range of one."""
    rng = np.random.default_rng(seen)
    sample, chance, width, looks = rng.random(seen), 0.03, 0.7, [10, 50, 51, 80]
    error = sample.std(ddof=1) * np.sqrt(1 / seen - 1 / TOTAL)
    found = bound_for(looks, TOTAL, width).radius(
        np.array([[error]]), np.array([[seen - 1.0]]), strata(seen), np.array([[chance]])
    )
    early = 1 - (seen - 1) / TOTAL
    late = (1 - seen / TOTAL) * (1 + 1 / seen)
    rho = early if seen <= TOTAL / 2 else late
    log = np.log(5 / (chance / len(looks)))
    kappa = 7 / 3 + 3 / np.sqrt(2)
    expected = sample.std() * np.sqrt(2 * rho * log / seen) + kappa * 2 * width * log / seen
    assert found[0, 0] == pytest.approx(expected)


def radius(error: float, freedom: float, chance: float = 0.01) -> float:
    bound = bound_for([3, 10], TOTAL, None)
    given = np.array([[error]]), np.array([[freedom]]), strata(10), np.array([[chance]])
    return float(bound.radius(*given)[0, 0])


def test_without_a_degree_of_freedom_nothing_is_known_and_with_one_something_is() -> None:
    assert radius(0.1, 0.0) == np.inf
    assert 0 < radius(0.1, 2.0) < radius(0.1, 1.0) < np.inf


def test_what_does_not_vary_has_no_error_however_little_is_known_and_however_sure_one_is() -> None:
    assert radius(0.0, 0.0) == radius(0.0, 9.0, chance=1e-30) == 0.0
    assert radius(0.1, 9.0, chance=1e-30) == np.inf
