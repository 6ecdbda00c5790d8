import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics.correlation import (
    _coefficients,
    _weighted,
    pooled,
)
from depthprune.study.statistics.estimates import NotEstimable

# The worked example of Spearman's coefficient in Wikipedia: IQ against hours of television.
IQ = np.asarray([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], dtype=float)
HOURS = np.asarray([7, 27, 2, 50, 28, 29, 20, 12, 6, 17], dtype=float)


def correlate(x, y, draws=None, **settings):
    """One group, each cell a draw of its own unless it is said."""
    return pooled([x], [y], [np.arange(len(x)) if draws is None else draws], **settings)


def test_a_published_example():
    found = correlate(IQ, HOURS)
    assert found.spearman.value == pytest.approx(-29 / 165)
    assert found.kendall.value == pytest.approx(-1 / 9)


def test_kendall_by_hand_with_a_tie():
    # Pairs: (1,2) tie in y; (1,3) +; (2,3) +. τ-b = 2 / √(3 · 2).
    found = correlate(np.asarray([1.0, 2, 3]), np.asarray([5.0, 5, 6]))
    assert found.kendall.value == pytest.approx(2 / np.sqrt(6))


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_treated_as_scipy_does(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, 20).astype(float), rng.integers(0, 4, 20).astype(float)
    found = correlate(x, y, resamples=10)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)


def test_a_resample_as_weights_is_the_resample():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 15).astype(float), rng.standard_normal(15)
    picks = rng.integers(0, 15, (20, 15))
    weights = np.stack([np.bincount(pick, minlength=15) for pick in picks]).astype(float)
    expected = [
        (stats.spearmanr(x[p], y[p]).statistic, stats.kendalltau(x[p], y[p]).statistic)
        for p in picks
    ]
    assert pytest.approx(np.asarray(expected)) == _coefficients(x, y, weights).T


def test_the_interval_covers_what_it_should():
    """Normal pairs of correlation 0.6, whose ρ in the long run is 6/π · asin(0.3) = 0.582."""
    rng = np.random.default_rng(11)
    truth, hits = 6 / np.pi * np.arcsin(0.3), 0
    for seed in range(100):
        x, noise = rng.standard_normal((2, 40))
        ends = correlate(x, 0.6 * x + 0.8 * noise, resamples=300, seed=seed).spearman.interval
        hits += ends[0] <= truth <= ends[1]
    assert hits >= 88


def test_cells_of_one_draw_are_drawn_together():
    rng = np.random.default_rng(4)
    x, y = np.repeat(rng.standard_normal((2, 6)), 8, axis=1) + 0.01 * rng.standard_normal((2, 48))
    alone = correlate(x, y).spearman
    together = correlate(x, y, np.repeat(np.arange(6), 8)).spearman
    assert together.value == alone.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_groups_are_ranked_apart():
    """Within each size more perplexity goes with more accuracy; over all, the other way."""
    x = [np.arange(5.0), np.arange(5.0) + 100]
    y = [np.arange(5.0) + 50, np.arange(5.0)]
    draws = [np.arange(5), np.arange(5) + 5]
    assert pooled(x, y, draws).spearman.value == pytest.approx(1)
    assert correlate(np.concatenate(x), np.concatenate(y)).spearman.value < 0


def test_groups_weigh_by_their_cells_in_each_resample_and_one_without_a_rank_not_at_all():
    drawn = np.asarray([[[1.0, 1.0]] * 2, [[0.0, np.nan]] * 2])
    np.testing.assert_array_equal(_weighted(drawn, np.asarray([6.0, 2.0])), [[0.75, 1.0]] * 2)


def test_groups_weigh_by_their_cells():
    up, down = np.arange(6.0), np.arange(3.0)
    assert pooled(
        [up, down], [up, -down], [np.arange(6), np.arange(3)]
    ).kendall.value == pytest.approx((6 - 3) / 9)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])]
)
def test_what_does_not_vary_has_no_rank(x, y):
    assert isinstance(correlate(np.asarray(x, float), np.asarray(y, float)), NotEstimable)


def test_two_draws_give_no_interval():
    x = np.asarray([1.0, 2, 3, 4])
    found = correlate(x, x, np.asarray([0, 0, 1, 1])).spearman
    assert found.value == 1
    assert isinstance(found.interval, NotEstimable)


def test_a_draw_that_two_groups_share_is_resampled_in_both_at_once():
    """The same cells twice are no more evidence than once: the interval stays as wide."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(12)
    y, draws = x + rng.standard_normal(12), np.repeat(np.arange(6), 2)
    once = pooled([x], [y], [draws]).spearman
    twice = pooled([x, x], [y, y], [draws, draws]).spearman
    assert twice.value == pytest.approx(once.value)
    assert twice.interval == pytest.approx(once.interval)
