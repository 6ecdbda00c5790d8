"""Differences over all windows, from some: what they vary by, and what an earlier ask tells."""

from __future__ import annotations

import numpy as np
import pytest

from depthprune.evaluator.racing.differences import Earlier, Strata, differences, pooled

WINDOWS = 40


def strata(count: int, groups: np.ndarray | None = None, sizes: np.ndarray | None = None) -> Strata:
    whole = np.zeros(WINDOWS, dtype=np.int64) if groups is None else groups
    counts = np.bincount(whole)
    of = np.ones(WINDOWS) if sizes is None else sizes
    return Strata(whole[:count], of[:count], counts / counts.sum(), counts)


def related(rng: np.random.Generator, candidates: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and those of predecessors that differ in much the same way from window to window."""
    shared = rng.normal(size=(candidates, WINDOWS))
    offsets = rng.normal(size=(candidates, 1))
    losses = offsets + shared + 0.3 * rng.normal(size=shared.shape)
    return losses, 0.7 * offsets + shared + 0.3 * rng.normal(size=shared.shape)


def test_the_error_is_that_of_windows_drawn_without_replacement() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(2, WINDOWS))
    found = differences(losses[:, :10], strata(10))
    apart = losses[1, :10] - losses[0, :10]
    assert found.values[0, 1] == pytest.approx(apart.mean())
    expected = apart.std(ddof=1) * np.sqrt(1 / 10 - 1 / WINDOWS)
    assert found.errors[0, 1] == pytest.approx(expected)
    assert found.freedom[0, 1] == 9


def test_sources_add_up_by_their_shares() -> None:
    rng = np.random.default_rng(1)
    groups = np.arange(WINDOWS) % 4 // 3  # one window in four is of the second source
    losses = rng.normal(size=(2, WINDOWS)) * np.where(groups, 3.0, 1.0)
    found = differences(losses[:, :20], strata(20, groups))
    variance = 0.0
    for source, share, total in ((0, 0.75, 30), (1, 0.25, 10)):
        apart = (losses[1] - losses[0])[:20][groups[:20] == source]
        variance += share**2 * apart.var(ddof=1) * (1 / len(apart) - 1 / total)
    assert found.errors[0, 1] == pytest.approx(np.sqrt(variance))
    assert found.freedom[0, 1] == 18


def test_predecessors_that_were_seen_whole_leave_what_differs_beyond_them() -> None:
    rng = np.random.default_rng(2)
    losses, before = related(rng)
    plain = differences(losses[:, :10], strata(10))
    found = differences(losses[:, :10], strata(10), Earlier(before, strata(WINDOWS)))
    apart, there = losses[1] - losses[0], before[1] - before[0]
    beyond = (apart - there)[:10]
    assert found.values[0, 1] == pytest.approx(beyond.mean() + there.mean())
    expected = beyond.std(ddof=1) * np.sqrt(1 / 10 - 1 / WINDOWS)
    assert found.errors[0, 1] == pytest.approx(max(expected, plain.errors[0, 1] / 2))
    assert found.errors[0, 1] < 0.8 * plain.errors[0, 1]


def test_predecessors_that_were_seen_in_part_leave_the_rest_uncertain() -> None:
    rng = np.random.default_rng(3)
    losses, before = related(rng)
    before[0, 25:] = np.nan
    before[2, 8:] = np.nan
    before[3] = np.nan
    plain = differences(losses[:, :10], strata(10))
    found = differences(losses[:, :10], strata(10), Earlier(before, strata(WINDOWS)))
    apart, there = (losses[1] - losses[0])[:10], (before[1] - before[0])[:25]
    beyond = apart - there[:10]
    assert found.values[0, 1] == pytest.approx(beyond.mean() + there.mean())
    variance = beyond.var(ddof=1) * (1 / 10 - 1 / 25) + apart.var(ddof=1) * (1 / 25 - 1 / WINDOWS)
    assert found.errors[0, 1] == pytest.approx(np.sqrt(variance))
    # One that saw no more than is seen now, and one that is not there, tell nothing.
    for lacking in (2, 3):
        np.testing.assert_array_equal(found.values[lacking], plain.values[lacking])
        np.testing.assert_array_equal(found.errors[lacking], plain.errors[lacking])


def test_predecessors_of_another_kind_tell_nothing() -> None:
    rng = np.random.default_rng(4)
    losses, _ = related(rng)
    unrelated = 5 * rng.normal(size=losses.shape)
    plain = differences(losses[:, :10], strata(10))
    found = differences(losses[:, :10], strata(10), Earlier(unrelated, strata(WINDOWS)))
    np.testing.assert_array_equal(found.values, plain.values)
    np.testing.assert_array_equal(found.errors, plain.errors)


@pytest.mark.parametrize("saw", [20, WINDOWS])
def test_what_is_narrowed_is_as_sure_as_it_says(saw: int) -> None:
    """Over random orders of the windows a difference is rarely beyond Student's quantile."""
    rng = np.random.default_rng(5)
    wrong, narrower, count = 0, [], 2000
    for _ in range(count):
        losses, before = related(rng)
        truth = losses[1].mean() - losses[0].mean()
        before[:, saw:] = np.nan
        plain = differences(losses[:, :12], strata(12))
        found = differences(losses[:, :12], strata(12), Earlier(before, strata(WINDOWS)))
        narrower.append(found.errors[0, 1] / plain.errors[0, 1])
        # 5% beyond, two-sided, at 11 degrees of freedom.
        wrong += abs(found.values[0, 1] - truth) > 2.201 * found.errors[0, 1]
    assert wrong / count < 0.07
    assert np.mean(narrower) < (0.85 if saw == 20 else 0.55)


def test_nothing_is_known_of_a_source_that_was_not_seen() -> None:
    groups = np.array([0] * 30 + [1] * 10)
    losses = np.random.default_rng(6).normal(size=(3, WINDOWS))
    found = differences(
        losses[:, :20], strata(20, groups), Earlier(losses, strata(WINDOWS, groups))
    )
    assert np.isinf(found.errors).all()


def test_pooling_helps_out_the_references_alone() -> None:
    rng = np.random.default_rng(7)
    losses = np.arange(10)[:, None] * 0.3 + rng.normal(size=(10, WINDOWS))
    plain = differences(losses[:, :4], strata(4))
    found = pooled(plain, [0, 2], 0.01)
    np.testing.assert_array_equal(found.errors[1], plain.errors[1])
    np.testing.assert_array_equal(found.freedom[1], 3.0)
    assert (found.freedom[0, 1:] > 3).all()
    inside = plain.errors[0, 1:] > 0
    assert np.log(found.errors[0, 1:][inside]).std() < np.log(plain.errors[0, 1:][inside]).std()


def test_without_a_least_difference_those_that_are_next_to_none_stand_for_a_larger_one() -> None:
    rng = np.random.default_rng(9)
    losses = np.arange(10)[:, None] * 0.3 + rng.normal(size=(10, WINDOWS))
    losses[1] += losses[0, :4].mean() - losses[1, :4].mean() + 1e-14
    plain = differences(losses[:, :4], strata(4))
    found = pooled(plain, [0], 0.0)
    assert (found.freedom[0, 1:] > 3).all()
    largest = np.abs(plain.values[0]).max()
    np.testing.assert_allclose(found.errors[0], pooled(plain, [0], 1e-3 * largest).errors[0])


def test_of_means_that_are_all_alike_no_trend_is_made() -> None:
    losses = np.stack([np.roll(np.arange(8.0) ** 2, places) for places in range(8)])
    plain = differences(losses, strata(8))
    assert not plain.values.any()
    np.testing.assert_array_equal(pooled(plain, [0], 0.0).errors, plain.errors)


def test_what_varies_alike_has_no_error_but_rounding_which_is_none() -> None:
    for seed in range(20):
        losses = 1e3 + np.random.default_rng(seed).normal(size=(1, WINDOWS)) + [[0.0], [0.1], [0.7]]
        found = differences(losses[:, :30], strata(30))
        np.testing.assert_array_equal(found.errors, 0.0)


def test_where_nothing_differs_nothing_is_pooled() -> None:
    losses = np.ones((8, WINDOWS))
    found = pooled(differences(losses[:, :4], strata(4)), [0], 0.0)
    np.testing.assert_array_equal(found.errors, 0.0)


def test_two_that_are_alike_are_no_part_of_the_trend() -> None:
    rng = np.random.default_rng(8)
    losses = 1e3 + np.arange(10)[:, None] * 0.3 + rng.normal(size=(10, WINDOWS))
    losses[1] = losses[0] + 1e-13
    found = pooled(differences(losses[:, :4], strata(4)), [0], 0.01)
    assert found.errors[0, 1] == 0.0
    assert found.errors[0, 2:].min() > 0.1
