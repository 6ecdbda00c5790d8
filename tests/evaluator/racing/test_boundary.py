"""The boundary spends the chance it is given, all of it, on the rounds that a race has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from depthprune.evaluator.racing.boundary import critical
from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.differences import Strata

ENDLESS = 2**40


def values(looks: tuple[int, ...], total: int, chance: float) -> np.ndarray:
    return np.array([critical(looks, total, seen, np.array([chance]))[0] for seen in looks])


@pytest.mark.parametrize("total", [20, ENDLESS])
@pytest.mark.parametrize("chance", [0.1, 0.02, 0.003])
def test_going_beyond_at_any_round_has_the_chance(total: int, chance: float) -> None:
    """Against the joint normal distribution of all rounds, integrated by another's means."""
    looks = (3, 5, 9, 14)
    information = 1 / (1 / np.array(looks) - 1 / total)
    related = np.sqrt(np.divide.outer(information, information))
    joint = stats.multivariate_normal(np.zeros(4), np.minimum(related, related.T), seed=0)
    beyond = 1 - joint.cdf(values(looks, total, chance))
    assert beyond == pytest.approx(chance, rel=0.03)


def test_a_round_spends_as_the_root_of_its_windows() -> None:
    looks = (4, 16, 64)
    assert values(looks, 100, 0.02)[0] == pytest.approx(stats.norm.isf(0.02 / 4), rel=2e-3)
    assert values(looks, 100, 0.02)[-1] < stats.norm.isf(0.02 / 2)


def test_one_round_has_the_quantile() -> None:
    assert values((5,), ENDLESS, 1 / 64)[0] == pytest.approx(stats.norm.isf(1 / 64))


def test_of_a_smaller_chance_than_any_estimate_shows_nothing_is_sure() -> None:
    looks = (3, 6, 12)
    assert np.isfinite(values(looks, 20, 1e-12)).all()
    assert np.isinf(values(looks, 20, 1e-14)).all()


def test_rounds_that_are_close_are_integrated_too() -> None:
    looks = tuple(range(100, 130, 2))
    found = values(looks, 200, 0.01)
    steps = np.random.default_rng(0).normal(size=(100_000, len(looks)))
    information = 1 / (1 / np.array(looks) - 1 / 200)
    motion = (steps * np.sqrt(np.diff(information, prepend=0.0))).cumsum(1)
    beyond = (motion / np.sqrt(information) > found).any(1).mean()
    assert beyond == pytest.approx(0.01, abs=0.001)


def beyond(differences: np.ndarray, chance: float) -> float:
    """How often a difference that is none over all windows is beyond its radius at some round."""
    count, looks = differences.shape[1], [3, 5, 7, 9, 11, 15, 20, 26]
    differences = differences - differences.mean(1, keepdims=True)
    bound = bound_for(looks, count, None)
    wrong = np.zeros(len(differences), dtype=bool)
    for seen in looks:
        part = differences[:, :seen]
        errors = part.std(1, ddof=1) * np.sqrt(1 / seen - 1 / count)
        strata = Strata(np.zeros(seen, int), np.ones(seen), np.ones(1), np.array([count]))
        freedom = np.full((1, len(errors)), seen - 1.0)
        radius = bound.radius(errors[None], freedom, strata, np.array([[chance]]))[0]
        wrong |= part.mean(1) > radius
    return float(wrong.mean())


def test_where_differences_are_normal_the_chance_of_an_error_is_the_one_given() -> None:
    """Student's quantiles make up for variances that are estimated from three windows on."""
    rng = np.random.default_rng(1)
    assert beyond(rng.normal(size=(20_000, 32)), 0.05) == pytest.approx(0.05, abs=0.006)
    assert beyond(rng.normal(size=(20_000, 32)), 0.005) == pytest.approx(0.005, abs=0.002)


def test_where_a_few_windows_carry_a_difference_the_chance_is_not_kept() -> None:
    """No bound from few windows knows of those not seen; it is no worse than it was."""
    skewed = np.exp(np.random.default_rng(2).normal(size=(10_000, 32)))
    assert beyond(skewed, 0.01) < 0.005
    assert 0.1 < beyond(-skewed, 0.01) < 0.25
