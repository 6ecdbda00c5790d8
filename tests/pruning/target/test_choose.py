"""What cannot be told apart is a tie, however many windows were seen; many looks widen the ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from depthprune.errors import EvaluationError
from depthprune.evaluator import Score
from depthprune.evaluator.score import Weighting, partial_score, score_of
from depthprune.pruning.target.choose import allowed_by_general, break_tie, race
from depthprune.searches.driver import Scorer


class Drawn:
    """Sets with means, and windows drawn around them."""

    blocks = 8

    def __init__(self, means: dict[tuple[int, ...], float], windows: int, spread: float = 0.3,
                 seed: int = 0) -> None:  # fmt: skip
        self.windows = windows
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=windows)
        self._losses = {
            removed: mean + shared + spread * rng.normal(size=windows)
            for removed, mean in means.items()
        }
        self._weighting = Weighting(np.zeros(windows, np.int64), (1.0,), np.ones(windows, np.int64))
        self.calls: list[tuple[int, int]] = []

    def score(self, removed: object, *, windows: int | None = None) -> list[Score]:
        sets = list(removed)  # type: ignore[call-overload]
        self.calls.append((len(sets), windows or self.windows))
        if windows is None or windows == self.windows:
            return [score_of(s, self._losses[s], self._weighting) for s in sets]
        return [partial_score(s, self._losses[s], self._weighting, range(windows)) for s in sets]


def _race(scorer: object, sets: object, **more: object) -> list[tuple[int, ...]]:
    found: Scorer = scorer  # type: ignore[assignment]
    return race(found, list(sets), **{"looked": 2, "first": 16, **more})[0]  # type: ignore


def test_a_clear_winner_stands_alone() -> None:
    means = {(0,): 1.0, (1,): 2.0, (2,): 3.0}
    assert _race(Drawn(means, 128), means) == [(0,)]


@pytest.mark.parametrize("mean", [1.0, -1.0])
@pytest.mark.parametrize(("more", "left"), [(0.0005, [(0,), (1,)]), (0.002, [(0,)])])
def test_what_is_worse_by_the_same_in_every_window_drops_out_where_that_is_more_than_a_tie(
    mean: float, more: float, left: list[tuple[int, ...]]
) -> None:
    means = {(0,): mean, (1,): mean + more}
    assert _race(Drawn(means, 64, spread=0.0), means) == left


def test_sets_alike_in_the_target_are_tied_even_when_every_window_was_seen() -> None:
    # One mean is lower on these windows; that is of the draw, and of the target it says nothing.
    means = {(0,): 1.0, (1,): 1.001}
    assert set(_race(Drawn(means, 64), means, tolerance=0.0)) == {(0,), (1,)}


def test_a_set_that_is_surely_within_a_tie_of_the_best_is_left_to_what_is_lost_in_general() -> None:
    means = {(0,): 1.0, (1,): 1.0005, (2,): 1.01}
    drawn = Drawn(means, 64, spread=1e-6)
    assert _race(drawn, means, tolerance=0.001) == [(0,), (1,)]
    assert _race(drawn, means, tolerance=0.0001) == [(0,)]


def test_what_is_surely_worse_drops_out_before_the_others_are_scored_on_all() -> None:
    means = {(0,): 1.0, (1,): 1.01, (2,): 9.0}
    drawn = Drawn(means, 128)
    _race(drawn, means)
    assert drawn.calls[0] == (3, 16)
    assert all(sets == 2 for sets, _ in drawn.calls[1:])


def test_a_set_that_is_left_alone_early_is_still_scored_on_all() -> None:
    means = {(0,): 1.0, (1,): 9.0}
    scorer: Scorer = Drawn(means, 128)  # type: ignore[assignment]
    contenders, scores = race(scorer, list(means), looked=2, first=16)
    assert contenders == [(0,)]
    assert [scores[removed].windows for removed in means] == [128, 16]


@pytest.mark.parametrize(("small", "left"), [(50, [(0,)]), (10, [(0,), (1,)])])
def test_windows_that_count_for_more_make_a_strict_bound_wider(
    small: int, left: list[tuple[int, ...]]
) -> None:
    drawn = Drawn({(0,): 0.0, (1,): 1.0}, 100)
    drawn._losses = {(0,): np.zeros(100), (1,): np.ones(100)}
    groups = np.repeat([0, 1], [100 - small, small])
    drawn._weighting = Weighting(groups, (0.5, 0.5), np.ones(100, np.int64))
    assert _race(drawn, [(0,), (1,)], first=100, bounds=(0.0, 1.0)) == left


def test_more_looks_make_more_ties() -> None:
    ties = []
    for looked in (2, 1000):
        means = {(0,): 1.0, (1,): 1.13}
        drawn = [Drawn(means, 64, seed=seed) for seed in range(40)]
        ties.append(sum(len(_race(d, means, looked=looked, first=64)) > 1 for d in drawn))
    assert ties[0] < ties[1]


def test_the_best_set_is_dropped_no_oftener_than_was_allowed() -> None:
    means = {(i,): 1.0 + 0.02 * i for i in range(6)}
    wrong = sum(
        (0,) not in _race(Drawn(means, 64, seed=seed), means, looked=6, delta=0.1, tolerance=0.0)
        for seed in range(200)
    )
    assert wrong <= 20


def test_no_finite_loss_is_refused() -> None:
    with pytest.raises(EvaluationError, match="NaN or infinite on some windows"):
        _race(Drawn({(0,): math.nan}, 32), [(0,)])


def test_a_set_with_a_loss_that_is_not_finite_loses() -> None:
    assert _race(Drawn({(0,): math.nan, (1,): 2.0}, 32), [(0,), (1,)]) == [(1,)]


def _taken(general: dict[tuple[int, ...], float], above: float = 0.0) -> tuple[int, ...]:
    """Of two sets whose paired differences scatter by 1 about `above`, over 64 windows."""
    weighting = Weighting(np.zeros(64, np.int64), (1.0,), np.ones(64, np.int64))
    best = np.random.default_rng(0).normal(size=64)
    losses = {(0,): best, (1,): best + np.resize([-1.0, 1.0], 64) + above}
    scores = {removed: score_of(removed, each, weighting) for removed, each in losses.items()}
    return break_tie([(0,), (1,)], general, scores)


def test_a_tie_goes_to_the_least_loss_in_general() -> None:
    assert _taken({(0,): 3.0, (1,): 2.9}) == (1,)
    assert _taken({(0,): 2.0, (1,): 2.0}) == (0,)


@pytest.mark.parametrize("least", [1.0, -1.0])
def test_of_equal_losses_in_general_the_better_of_the_tied_is_taken(least: float) -> None:
    weighting = Weighting(np.zeros(9, np.int64), (1.0,), np.ones(9, np.int64))
    above = {(1,): 0.0, (0,): 0.0005, (2,): 0.002}
    losses = {removed: np.full(9, least + more) for removed, more in above.items()}
    scores = {removed: score_of(removed, each, weighting) for removed, each in losses.items()}
    assert break_tie(list(losses), dict.fromkeys(losses, 3.0), scores) == (1,)
    # These differ by the same in all windows, so it is the tolerance that says what is near.
    assert break_tie(list(losses), {(1,): 3.0, (0,): 2.0, (2,): 1.0}, scores) == (0,)


def test_a_tied_set_that_is_likely_worse_is_not_taken() -> None:
    error = 1 / math.sqrt(63)
    assert _taken({(0,): 3.0, (1,): 2.9}, above=0.9 * error) == (1,)
    assert _taken({(0,): 3.0, (1,): 2.9}, above=1.1 * error) == (0,)


def test_keep_general_refuses_what_is_too_far_above_the_best() -> None:
    general = {(0,): 2.0, (1,): 2.09, (2,): 2.11}
    assert allowed_by_general(general, 0.05) == ([(0,), (1,)], ((2,),))
    assert allowed_by_general(general, 0.0) == ([(0,)], ((1,), (2,)))
    assert allowed_by_general(general, None) == (list(general), ())


def test_keep_general_allows_a_share_of_the_best_loss_below_zero_too() -> None:
    general = {(2,): -1.89, (0,): -2.0, (1,): -1.91}
    assert allowed_by_general(general, 0.05) == ([(0,), (1,)], ((2,),))
    assert allowed_by_general(general, 0.0) == ([(0,)], ((2,), (1,)))
