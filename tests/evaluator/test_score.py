"""Standard errors are between windows, stratified by source and paired for differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depthprune.evaluator.score import Weighting, increase, partial_score, score_of

ONE = Weighting(np.zeros(4, dtype=int), (1.0,), np.full(4, 10))
TWO = Weighting(np.array([0, 0, 0, 1, 1]), (0.25, 0.75), np.full(5, 10))


def test_one_source_gives_the_usual_standard_error_of_the_mean() -> None:
    losses = np.array([1.0, 2.0, 3.0, 6.0])
    score = score_of((), losses, ONE)
    assert score.loss == pytest.approx(3.0)
    assert score.stderr == pytest.approx(losses.std(ddof=1) / 2)


def test_sources_count_by_their_shares_and_not_by_their_windows() -> None:
    losses = np.array([1.0, 2.0, 3.0, 10.0, 12.0])
    score = score_of((), losses, TWO)
    assert score.loss == pytest.approx(0.25 * 2 + 0.75 * 11)
    first, second = losses[:3].var(ddof=1) / 3, losses[3:].var(ddof=1) / 2
    assert score.stderr == pytest.approx(math.sqrt(0.25**2 * first + 0.75**2 * second))


def test_longer_windows_count_for_more() -> None:
    weighting = Weighting(np.zeros(2, dtype=int), (1.0,), np.array([30, 10]))
    assert score_of((), np.array([1.0, 5.0]), weighting).loss == pytest.approx(2.0)


def test_a_single_window_has_no_standard_error() -> None:
    weighting = Weighting(np.zeros(1, dtype=int), (1.0,), np.array([10]))
    assert math.isnan(score_of((), np.array([1.0]), weighting).stderr)


def test_an_increase_is_paired_window_by_window() -> None:
    base = score_of((), np.array([1.0, 5.0, 2.0, 9.0]), ONE)
    shifted = score_of((1,), base.window_losses + 0.5, ONE)
    grown, stderr = increase(shifted, base)
    assert grown == pytest.approx(0.5)
    assert stderr == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_window_that_is_not_finite_makes_the_loss_infinite(bad: float) -> None:
    score = score_of((2,), np.array([1.0, bad, 2.0, 3.0]), ONE)
    assert score.loss == math.inf
    assert increase(score, score_of((), np.ones(4), ONE))[0] == math.inf


PER_WINDOW = Weighting(np.zeros(3, dtype=int), (1.0,), np.array([30, 10, 5]), np.ones(3))
WORST = Weighting(
    np.array([0, 0, 0, 1, 1, 1]), (1.0, 1.0), np.array([10, 20, 10, 5, 5, 5]),
    np.array([10.0, 20, 10, 5, 5, 5]), worst=True,
)  # fmt: skip
FIRST = np.array([5.0, 6.0, 7.0, 1.0, 2.0, 3.0])
SECOND = np.array([1.0, 2.0, 3.0, 5.0, 6.0, 8.5])


def test_windows_may_count_each_the_same() -> None:
    losses = np.array([1.0, 2.0, 6.0])
    score = score_of((), losses, PER_WINDOW)
    assert score.loss == pytest.approx(3.0)
    assert score.stderr == pytest.approx(losses.std(ddof=1) / math.sqrt(3))
    assert score.tokens == 45


def test_a_difference_per_window_is_paired() -> None:
    base = np.array([1.0, 5.0, 2.0])
    grown = base + np.array([0.5, 0.7, 0.9])
    found = increase(score_of((1,), grown, PER_WINDOW), score_of((), base, PER_WINDOW))
    assert found == pytest.approx((0.7, (grown - base).std(ddof=1) / math.sqrt(3)))


def test_the_worst_domain_s_loss_and_standard_error_are_its_own() -> None:
    alone = Weighting(np.zeros(3, dtype=int), (1.0,), np.array([10, 20, 10]))
    score = score_of((), FIRST, WORST)
    assert score.loss == pytest.approx(alone.mean(FIRST[:3])) == pytest.approx(6.0)
    assert score.stderr == pytest.approx(alone.stderr(FIRST[:3]))


def test_the_same_worst_domain_is_paired_with_itself() -> None:
    change = np.array([0.5, 0.4, 0.3, -9.0, 0.0, 0.1])
    grown, stderr = increase(score_of((1,), FIRST + change, WORST), score_of((), FIRST, WORST))
    alone = Weighting(np.zeros(3, dtype=int), (1.0,), np.array([10, 20, 10]))
    assert grown == pytest.approx(0.4)
    assert stderr == pytest.approx(alone.stderr(change[:3]))


def test_two_different_worst_domains_are_independent() -> None:
    grown, stderr = increase(score_of((1,), SECOND, WORST), score_of((), FIRST, WORST))
    assert grown == pytest.approx(6.5 - 6.0)
    one, other = WORST.stderr(SECOND), WORST.stderr(FIRST)
    assert stderr == pytest.approx(math.hypot(one, other))


def test_a_worst_domain_of_one_window_has_no_standard_error() -> None:
    lone = Weighting(np.array([0, 1, 1]), (1.0, 1.0), np.full(3, 4), worst=True)
    score = score_of((), np.array([9.0, 1.0, 2.0]), lone)
    assert score.loss == 9.0
    assert math.isnan(score.stderr)


@pytest.mark.parametrize("weighting", [TWO, PER_WINDOW, WORST])
def test_a_window_that_was_not_seen_is_left_out_of_both(weighting: Weighting) -> None:
    count = len(weighting.groups)
    losses, base = np.arange(count) ** 2.0, np.arange(count) * 1.5 + 1
    unseen = np.where(np.arange(count) == count - 1, np.nan, losses)
    seen = weighting.only(np.arange(count - 1))
    assert weighting.difference(unseen, base) == pytest.approx(
        seen.difference(losses[:-1], base[:-1]), nan_ok=True
    )


def test_some_of_the_windows_keep_what_they_count_for() -> None:
    some = WORST.only(np.array([1, 2, 5]))
    assert some.mean(FIRST[[1, 2, 5]]) == pytest.approx((20 * 6.0 + 10 * 7.0) / 30)
    assert some.tokens.tolist() == [20, 10, 5]


def test_sources_of_which_no_window_was_seen_leave_their_share_to_the_others() -> None:
    losses = np.array([4.0, 6.0, 1.0])
    weighting = Weighting(np.array([0, 0, 1]), (0.25, 0.75), np.full(3, 10))
    assert partial_score((1,), losses, weighting, [0, 1]).loss == pytest.approx(5.0)
    assert partial_score((1,), losses, weighting, [0, 1, 2]).loss == pytest.approx(2.0)
