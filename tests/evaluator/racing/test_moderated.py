"""Variances that are helped out by others' are nearer to the truth, and not trusted too far."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import polygamma

from depthprune.evaluator.racing import moderated as module
from depthprune.evaluator.racing.moderated import moderated


def planted(prior: float, count: int, freedom: int, seed: int = 0):
    """True variances that scatter around a power of the size, and samples of them."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.normal(size=count))
    truth = 0.3 * sizes**0.7 * prior / rng.chisquare(prior, count)
    return sizes, truth, truth * rng.chisquare(freedom, count) / freedom


@pytest.mark.parametrize("freedom", [0.5, 1.0, 3.0, 40.0, 1e4])
def test_the_freedom_is_that_of_the_scatter(freedom: float) -> None:
    scatter = float(polygamma(1, freedom / 2))
    assert module._freedom_of(scatter) == pytest.approx(freedom, rel=1e-6)


def test_no_scatter_beyond_chance_is_endless_freedom() -> None:
    assert module._freedom_of(-0.1) == float("inf")


@pytest.mark.parametrize("prior", [2.0, 8.0, 20.0])
def test_a_planted_scatter_is_found(prior: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRUSTED", 1e9)
    sizes, _, samples = planted(prior, 8000, 6)
    better, freedom = moderated(samples, sizes, 6)
    found = freedom[0] - 6
    assert found == pytest.approx(prior, rel=0.1)
    # The part of what is known from the others: the planted power itself.
    trend = (better * freedom - 6 * samples) / found
    np.testing.assert_allclose(np.median(trend / (0.3 * sizes**0.7)), 1, rtol=0.05)


def test_moderated_variances_are_nearer_to_the_true_ones() -> None:
    sizes, truth, samples = planted(20.0, 30, 3)
    better, freedom = moderated(samples, sizes, 3)
    own = np.abs(np.log(samples / truth)).mean()
    assert np.abs(np.log(better / truth)).mean() < 0.7 * own
    assert freedom.max() == 3 + module._TRUSTED * 3


def test_too_few_make_no_trend() -> None:
    samples = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    better, freedom = moderated(samples, samples, 3)
    np.testing.assert_array_equal(better, samples)
    np.testing.assert_array_equal(freedom, 3.0)
    enough = np.append(samples, 6.0)
    assert (moderated(enough, enough, 3)[1] > 3).all()


def test_what_does_not_differ_stays_so() -> None:
    sizes, _, samples = planted(8.0, 12, 3)
    samples[4] = 0.0
    better, freedom = moderated(samples, sizes, 3)
    assert better[4] == 0.0
    assert freedom[4] == 3.0
    assert (freedom[np.arange(12) != 4] > 3).all()
