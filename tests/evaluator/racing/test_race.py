"""Racing keeps the best, says what it saw, and holds its promise on data without a lucky order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from items import calibration_of, random_text

import depthprune as dp
from depthprune.errors import UsageError
from depthprune.evaluator import memory as memory_module
from depthprune.evaluator.racing import decision
from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.chances import chances
from depthprune.evaluator.racing.decision import decide
from depthprune.evaluator.racing.differences import Strata
from depthprune.evaluator.racing.race import Race, order_of, predecessors
from depthprune.evaluator.racing.rounds import rounds
from depthprune.evaluator.racing.settings import Racing
from depthprune.evaluator.score import Weighting, partial_score, score_of


class Table:
    """A combination whose losses are given."""

    scaled, races = False, True

    def __init__(self, groups: list[int], bounds: tuple[float, float] | None = None) -> None:
        shares = np.bincount(groups) / len(groups)
        tokens = np.full(len(groups), 10)
        self.weighting = Weighting(np.asarray(groups), tuple(shares.tolist()), tokens)
        self.bounds = bounds

    def windows(self, losses: np.ndarray) -> np.ndarray:
        return losses[0]

    def put_together(self, removed, losses, places=None):
        if places is None or len(places) == len(losses):
            return score_of(removed, losses, self.weighting)
        return partial_score(removed, losses, self.weighting, places)

    def strata(self, places):
        where = np.asarray(places)
        groups = self.weighting.groups
        shares = np.asarray(self.weighting.shares)
        return Strata(groups[where], np.full(len(where), 10.0), shares, np.bincount(groups))


def run_race(
    losses, keep, order=None, settings=None, groups=None, bounds=None, behind=(), earlier=()
):
    """Race rows of a table; the answer, and how many losses were looked at.

    Rows are the sets of one block, or of one more than those `behind`.
    """
    count = losses.shape[1]
    sets = [(*behind, i) for i in range(len(losses))]
    race = Race(
        sets,
        keep,
        settings or Racing(),
        Table(groups or [0] * count, bounds),  # type: ignore[arg-type]
        order if order is not None else range(count),
        1,
        earlier,
    )
    looked = 0
    for places, contenders in race:
        looked += len(places) * len(contenders)
        race.tell({s: losses[s[-1]][None] for s in contenders})
    return race.scores(), looked


def _best(scores, keep):
    return sorted(s.removed[-1] for s in sorted(scores, key=lambda s: s.loss)[:keep])


def test_rounds_are_disjoint_and_grow_and_are_all_windows_in_the_end() -> None:
    groups = [0] * 40 + [1] * 10
    order = list(np.random.default_rng(0).permutation(50))
    found = rounds(groups, order, 2)
    assert sorted(place for part in found for place in part) == list(range(50))
    seen = np.cumsum([len(part) for part in found])
    assert seen[0] <= 8
    shares = [
        np.mean([groups[p] for part in found[: i + 1] for p in part]) for i in range(len(found))
    ]
    assert all(abs(share - 0.2) <= 1 / size for share, size in zip(shares, seen, strict=True))


@pytest.mark.parametrize("count", range(8, 40))
def test_no_round_is_smaller_than_is_worth_its_call(count: int) -> None:
    for least in (1, 4, 7):
        found = rounds([0] * count, range(count), least)
        assert min(map(len, found)) >= least
        assert len(found[0]) >= 3 or len(found) == 1


def test_two_windows_of_each_source_are_in_the_first_round_however_small_its_part() -> None:
    groups = [0] * 97 + [1, 1, 1] + [2]
    first, *later = rounds(groups, range(101), 1)
    assert [groups[place] for place in first if groups[place]] == [1, 1, 2]
    assert len(first) < 20
    assert all(later)


def test_a_round_that_no_source_has_a_window_for_is_none() -> None:
    groups = [source for source in range(10) for _ in range(4)]
    assert [len(found) for found in rounds(groups, range(40), 1)] == [30, 10]


def test_windows_are_drawn_in_a_random_order_that_one_calibration_always_has() -> None:
    orders = [order_of(_calibration(count)) for count in (60, 60, 59)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(60))
    assert orders[0] != sorted(orders[0])
    assert [place for place in orders[0] if place < 59] != orders[2]


@pytest.mark.parametrize("keep", [1, 3, 8])
def test_clear_differences_are_seen_early_and_rightly(keep: int) -> None:
    rng = np.random.default_rng(0)
    windows = rng.normal(3, 1, size=64)
    losses = windows + np.arange(12)[:, None] * 0.2 + rng.normal(0, 0.02, size=(12, 64))
    scores, looked = run_race(losses, keep)
    assert _best(scores, keep) == list(range(keep))
    assert looked < 0.3 * losses.size


def test_a_window_s_own_difficulty_does_not_count() -> None:
    """Losses differ a hundred times more between windows than between sets."""
    rng = np.random.default_rng(1)
    losses = rng.normal(0, 10, size=64) + np.array([[0.0], [0.1], [0.2]])
    losses = losses + rng.normal(0, 0.01, size=losses.shape)
    scores, looked = run_race(losses, 1, settings=Racing(tolerance=0))
    assert _best(scores, 1) == [0]
    assert looked < 0.5 * losses.size


@pytest.mark.parametrize("level", [4.0, -4.0])
def test_ties_need_no_proof_and_other_differences_do(level: float) -> None:
    rng = np.random.default_rng(2)
    losses = level + rng.normal(0, 0.5, size=64) + rng.normal(0, 0.004, size=(6, 64))
    _, few = run_race(losses, 1, settings=Racing(tolerance=0.01))
    _, many = run_race(losses, 1, settings=Racing(tolerance=0))
    assert few < 0.3 * many


def test_of_what_is_left_only_so_many_are_kept_as_places_are_open() -> None:
    """The best is sure at once, and the worst are; of the three between them two are wanted."""
    rng = np.random.default_rng(18)
    means = np.array([[1.2], [0.0], [1.0], [1.1], [3.0], [3.1]])
    losses = 4 + means + rng.normal(0, 0.1, size=(6, 64))
    scores, _ = run_race(losses, 3)
    assert _best(scores, 3) == [1, 2, 3]


def test_what_dropped_out_on_easy_windows_is_not_taken_for_what_stayed() -> None:
    """The two that stay are alike, so that without a tolerance neither is ever kept for sure."""
    easy = np.where(np.arange(64) < 8, 2.0, 8.0)
    noise = np.random.default_rng(19).normal(0, 0.01, size=64)
    losses = np.stack([easy + 1 + noise, easy, easy])
    scores, _ = run_race(losses, 1, settings=Racing(tolerance=0))
    assert scores[0].windows < 64
    assert _best(scores, 1) == [1]


def test_without_tolerance_the_choice_is_exact_when_all_windows_were_needed() -> None:
    rng = np.random.default_rng(3)
    losses = rng.normal(0, 1, size=(8, 32))
    scores, looked = run_race(losses, 3, settings=Racing(delta=1e-9, tolerance=0))
    assert looked == losses.size
    assert _best(scores, 3) == sorted(np.argsort(losses.mean(1))[:3].tolist())
    for score in scores:
        assert score.exact
        assert score.loss == pytest.approx(losses[score.removed[-1]].mean())


def test_errors_beyond_a_tie_are_rarer_than_delta() -> None:
    """Heavy-tailed losses, close candidates, random orders; an error is a loss beyond the tie."""
    rng = np.random.default_rng(4)
    wrong = looked = total = 0
    for _ in range(400):
        heavy = rng.standard_t(4, size=(10, 48)) * 0.05
        losses = 4 + rng.normal(0, 0.5, 48) + rng.normal(0, 0.03, (10, 1)) + heavy
        scores, cost = run_race(losses, 1, settings=Racing(delta=0.05))
        means = losses.mean(1)
        wrong += means[_best(scores, 1)[0]] > means.min() * 1.001
        looked, total = looked + cost, total + losses.size
    assert wrong <= 0.05 * 400
    assert looked < 0.9 * total


def two_steps(rng, candidates=12, windows=48):
    """Losses of greedy's candidates in two steps: the second's differ much as the first's did."""
    offsets = rng.normal(0, 0.06, (candidates, 1))
    shared = rng.standard_t(4, size=(candidates, windows)) * 0.06 + offsets
    hard = 4 + rng.normal(0, 0.5, windows)
    first = hard + shared + 0.02 * rng.standard_t(4, size=shared.shape)
    return first, 0.3 + hard + 1.2 * shared + 0.02 * rng.standard_t(4, size=shared.shape)


def test_an_earlier_ask_saves_windows_and_errs_no_more() -> None:
    """The chance of an error beyond a tie stays below δ, with and without what was known."""
    rng = np.random.default_rng(14)
    cost, wrong, repeats = {True: 0, False: 0}, {True: 0, False: 0}, 250
    for _ in range(repeats):
        first, second = two_steps(rng)
        scores, _ = run_race(first, 1, settings=Racing(delta=0.05))
        for known in cost:
            # The model stands behind block 99 in the second step.
            found, looked = run_race(
                second, 1, settings=Racing(delta=0.05), behind=(99,), earlier=scores * known
            )
            means = second.mean(1)
            cost[known] += looked
            wrong[known] += means[_best(found, 1)[0]] > means.min() * 1.001
    assert cost[True] < 0.85 * cost[False]
    assert max(wrong.values()) <= 0.05 * repeats


def test_a_wrong_order_from_an_earlier_ask_costs_windows_and_errs_no_more() -> None:
    """The predecessors say that the worst are the best, and nothing else."""
    rng = np.random.default_rng(16)
    wrong = 0
    looked = {True: 0, False: 0}
    for _ in range(150):
        second = two_steps(rng)[1]
        turned = np.repeat(-second.mean(1, keepdims=True), second.shape[1], axis=1)
        earlier, _ = run_race(turned, 1)
        for known in looked:
            found, cost = run_race(
                second, 1, settings=Racing(delta=0.05), behind=(99,), earlier=earlier * known
            )
            looked[known] += cost
            means = second.mean(1)
            wrong += known and means[_best(found, 1)[0]] > means.min() * 1.001
    assert wrong <= 0.05 * 150
    assert looked[True] > looked[False]


def test_many_candidates_make_up_for_few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(15)
    losses = 4 + np.arange(40)[:, None] * 0.05 + rng.normal(0, 0.4, size=(40, 64))
    careful = Racing(delta=0.001)
    scores, together = run_race(losses, 1, settings=careful)
    monkeypatch.setattr(decision, "pooled", lambda found, *_: found)
    _, alone = run_race(losses, 1, settings=careful)
    assert together < 0.95 * alone
    assert _best(scores, 1) == [int(losses.mean(1).argmin())]


def _scored(*sets: tuple[int, ...]):
    table = Table([0] * 8)
    return [table.put_together(removed, np.full(8, float(sum(removed)))) for removed in sets]


def test_predecessors_differ_as_the_candidates_do() -> None:
    second = [(2, 5), (2, 7), (2, 9)]
    third = [(2, 5, 7), (2, 5, 9), (1, 2, 5)]
    found = predecessors(third, _scored(*second))
    assert {removed: score.loss for removed, score in found.items()} == {
        (2, 5, 7): 9.0,
        (2, 5, 9): 11.0,
    }
    first = [(2,), (5,), (7,)]
    assert set(predecessors(second, _scored(*first))) == {(2, 5), (2, 7)}


def test_asks_that_are_not_alike_have_no_predecessors() -> None:
    assert not predecessors([(1, 2), (3, 4)], _scored((1,), (3,)))
    assert not predecessors([(1, 2), (1, 3)], _scored((1, 2), (1, 4)))
    assert not predecessors([(1, 2), (1, 3)], ())
    assert not predecessors([(1, 2)], _scored((1,), (2,)))


def test_a_set_whose_loss_was_not_finite_is_no_predecessor() -> None:
    table = Table([0] * 8)
    bad = table.put_together((3,), np.full(8, math.inf))
    assert set(predecessors([(1, 2), (1, 3), (1, 4)], [*_scored((2,), (4,)), bad])) == {
        (1, 2),
        (1, 4),
    }


def _chances(race: Race, losses: np.ndarray) -> list[dict[tuple[int, ...], float]]:
    """After each round."""
    found = []
    for _, contenders in race:
        race.tell({s: losses[s[-1]][None] for s in contenders})
        found.append(dict(race._chances))
    return found


def test_chances_are_shared_out_once_by_what_is_known_best_first() -> None:
    sets = [(9, block) for block in range(5)]
    known = [
        Table([0] * 40).put_together((block,), np.full(40, loss))
        for block, loss in ((1, 3.0), (3, 1.0), (4, 2.0))
    ]
    noise = np.random.default_rng(20).normal(4, 1, size=(5, 40))
    table: Any = Table([0] * 40)
    first, *later = _chances(Race(sets, 2, Racing(), table, range(40), 1, known), noise)
    # Two are wanted; those of which nothing is known come last.
    assert first[9, 3] == first[9, 4] > first[9, 1] > first[9, 0] > first[9, 2]
    assert 2 * sum(first.values()) == pytest.approx(Racing().delta)
    first, *later = _chances(Race(sets, 2, Racing(), table, range(40), 1), noise)
    assert later == [first] * len(later) != []


def test_what_predecessors_lost_is_told_in_the_order_in_which_windows_are_drawn() -> None:
    order = np.random.default_rng(21).permutation(12).tolist()
    table: Any = Table([0] * 12)
    before = np.random.default_rng(22).random((2, 12))
    known = [table.put_together((block,), before[block]) for block in range(2)]
    race = Race([(9, 0), (9, 1), (9, 2)], 1, Racing(), table, order, 1, known)
    found = race._earlier([(9, 0), (9, 1), (9, 2)])
    assert found is not None
    np.testing.assert_array_equal(found.losses, [*before[:, order], np.full(12, np.nan)])


@pytest.mark.parametrize("keep", [1, 2])
def test_what_dropped_out_ranks_behind_what_was_kept(keep: int) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        losses = rng.normal(0, 1, 40) + rng.normal(0, 0.3, (7, 1)) + rng.normal(0, 0.3, (7, 40))
        scores, _ = run_race(losses, keep)
        ordered = sorted(scores, key=lambda s: s.loss)
        assert len({s.loss for s in ordered[: keep + 1]}) == keep + 1
        assert max(s.windows for s in scores) in {s.windows for s in ordered[:keep]}


def test_estimates_are_on_one_scale_however_many_windows_each_saw() -> None:
    """Early windows are harder; a set that saw only those is not thought worse for it."""
    hard = np.where(np.arange(64) < 8, 8.0, 2.0)
    rng = np.random.default_rng(6)
    offsets = np.array([[0.0], [0.02], [1.0]])
    losses = hard + offsets + rng.normal(0, 0.01, size=(3, 64))
    scores, _ = run_race(losses, 1, settings=Racing(tolerance=0))
    assert scores[2].windows < scores[0].windows
    assert scores[2].loss - scores[0].loss == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_drops_out_and_ranks_last(bad: float) -> None:
    rng = np.random.default_rng(7)
    losses = 3 + rng.normal(0, 0.3, size=(5, 30))
    losses[0, 17] = bad
    scores, _ = run_race(losses, 2, settings=Racing(delta=1e-9, tolerance=0))
    assert not scores[0].finite
    assert 0 not in _best(scores, 2)


def test_if_too_few_are_finite_those_are_kept() -> None:
    losses = np.full((4, 12), math.nan)
    losses[2] = 1.0
    scores, _ = run_race(losses, 2)
    assert _best(scores, 1) == [2]
    assert [s.finite for s in scores] == [False, False, True, False]


def test_sources_count_by_their_shares() -> None:
    """One source says 0 is better, the other, of nine times the share, that 1 is."""
    rng = np.random.default_rng(8)
    groups = [0] * 20 + [1] * 180
    gain = np.where(np.arange(200) < 20, 0.5, -0.2)
    losses = np.stack([np.zeros(200), gain]) + rng.normal(0, 0.02, size=(2, 200)) + 5
    order = rng.permutation(200).tolist()
    scores, looked = run_race(losses, 1, order=order, groups=groups)
    assert _best(scores, 1) == [1]
    assert looked < losses.size


def test_bounded_losses_race_by_a_strict_bound() -> None:
    rng = np.random.default_rng(9)
    rates = np.array([[0.1], [0.5], [0.6], [0.9]])
    losses = (rng.random((4, 2000)) < rates).astype(float)
    scores, looked = run_race(losses, 1, bounds=(0.0, 1.0))
    assert _best(scores, 1) == [0]
    assert looked < 0.6 * losses.size


def test_a_strict_bound_is_wider_than_one_that_trusts_in_normal_means() -> None:
    strata = Strata(np.zeros(20, dtype=int), np.ones(20), np.ones(1), np.array([200]))
    errors, freedom, chance = np.array([[0.05]]), np.array([[19.0]]), np.array([[0.001]])
    strict, free = (
        bound_for([10, 20, 40], 200, width).radius(errors, freedom, strata, chance)
        for width in (1.0, None)
    )
    assert strict > free


def test_when_all_windows_are_seen_nothing_is_uncertain() -> None:
    losses = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.1], [0.9, 2.0, 3.0]])
    strata = Strata(np.zeros(3, dtype=int), np.ones(3), np.ones(1), np.array([3]))
    for width in (None, 10.0):
        found = decide(losses, strata, 1, bound_for([], 3, width), chances(0.01, [1, 2, 0], 1), 0.0)
        assert found.kept.tolist() == [False, False, True]
        assert found.dropped.tolist() == [True, True, False]


def test_for_less_than_any_chance_all_windows_are_needed() -> None:
    losses = np.array([[4.0], [5.0]]) + np.random.default_rng(17).normal(0, 0.01, size=(2, 40))
    scores, looked = run_race(losses, 1, settings=Racing(delta=1e-20))
    assert looked == losses.size
    assert _best(scores, 1) == [0]


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"delta": 1.0}, {"tolerance": -0.1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Racing(**wrong)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


def _calibration(count: int = 60):
    rng = np.random.default_rng(0)
    return calibration_of([random_text(rng, 16) for _ in range(count)])


@pytest.mark.parametrize("name", ["one-shot", "greedy"])
def test_a_raced_search_chooses_what_the_exact_one_does_for_less(
    model: dp.Model, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 64})
    calibration = _calibration(250)
    settings = Racing(tolerance=0.002)
    exact = dp.search(name, dp.Evaluator(model, calibration, racing=None), k=2)
    raced = dp.search(name, dp.Evaluator(model, calibration, racing=settings), k=2)
    assert raced.removed == exact.removed
    assert raced.score.loss == pytest.approx(exact.score.loss, rel=1e-6)
    assert raced.score.exact
    assert raced.cost.evaluations < exact.cost.evaluations


def test_a_race_is_the_same_every_time(model: dp.Model) -> None:
    sets = [(b,) for b in range(6)]
    first, second = (dp.Evaluator(model, _calibration()).compare(sets, 1) for _ in range(2))
    assert first == second


def test_some_windows_are_the_first_of_one_order(model: dp.Model) -> None:
    evaluator = dp.Evaluator(model, _calibration(20))
    part = evaluator.score([(1,)], windows=5)[0]
    whole = evaluator.score([(1,)])[0]
    seen = ~np.isnan(part.window_losses)
    assert (part.windows, seen.sum(), part.exact) == (5, 5, False)
    np.testing.assert_array_equal(part.window_losses[seen], whole.window_losses[seen])
    assert evaluator.cost.evaluations == 1
    with pytest.raises(UsageError, match="expected 1 to 20"):
        evaluator.score([(1,)], windows=21)


def test_nothing_is_decided_while_a_source_was_not_seen() -> None:
    losses = np.array([[1.0, 1.01, 0.99, 1.0], [2.0, 2.01, 1.99, 2.0]])
    strata = Strata(
        np.zeros(4, dtype=int), np.ones(4), np.array([0.1, 0.9]), totals=np.array([40, 1])
    )
    found = decide(losses, strata, 1, bound_for([4], 41, None), chances(0.01, [0, 1], 1), 0.0)
    assert not found.kept.any()
    assert not found.dropped.any()


@pytest.mark.parametrize("sources", [1, 3])
def test_of_single_windows_that_were_all_seen_the_best_are_known(sources: int) -> None:
    """No variance is known of them, and none is needed."""
    losses = np.arange(4.0)[:, None] + np.zeros(sources)
    shares = np.full(sources, 1 / sources)
    strata = Strata(
        np.arange(sources), np.ones(sources), shares, totals=np.ones(sources, dtype=np.int64)
    )
    shares = chances(0.01, range(4), 2)
    decision = decide(losses, strata, 2, bound_for([], sources, None), shares, 0.0, pool=True)
    assert decision.kept.tolist() == [True, True, False, False]
    assert decision.dropped.tolist() == [False, False, True, True]


def test_a_source_of_one_window_is_seen_at_once_and_counts() -> None:
    """Forty windows say that 0 is better, and one, of as large a share, that 1 is."""
    rng = np.random.default_rng(11)
    groups = [0] * 40 + [1]
    gain = np.where(np.arange(41) < 40, 0.2, -0.5)
    losses = np.stack([np.zeros(41), gain]) + rng.normal(0, 0.01, size=(2, 41)) + 5
    table = Table(groups)
    table.weighting = Weighting(np.asarray(groups), (0.5, 0.5), np.full(41, 10))
    race = Race([(0,), (1,)], 1, Racing(), table, range(41), 1)  # type: ignore[arg-type]
    looked = 0
    for places, contenders in race:
        looked += len(places) * len(contenders)
        race.tell({s: losses[s[0]][None] for s in contenders})
    assert _best(race.scores(), 1) == [1]
    assert looked < losses.size


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("delta", [0.5, 0.9, 0.999])
def test_a_large_chance_of_error_decides_early(delta: float) -> None:
    rng = np.random.default_rng(12)
    losses = np.array([[4.0], [5.0]]) + rng.normal(0, 0.1, size=(2, 64))
    scores, looked = run_race(losses, 1, settings=Racing(delta=delta))
    assert _best(scores, 1) == [0]
    assert looked < 0.5 * losses.size


def test_a_tie_is_a_share_of_the_loss_and_not_of_the_windows_mean() -> None:
    """A source of nine windows in ten and next to no share has losses of a thousand."""
    rng = np.random.default_rng(13)
    groups = np.array([0] * 36 + [1] * 4)
    losses = np.where(groups == 0, 1000.0, 5 + rng.normal(0, 1, size=(2, 40)))
    table = Table(groups.tolist())
    table.weighting = Weighting(groups, (1e-6, 1 - 1e-6), np.full(40, 10))
    race = Race([(0,), (1,)], 1, Racing(), table, range(40), 1)  # type: ignore[arg-type]
    looked = 0
    for places, contenders in race:
        looked += len(places) * len(contenders)
        race.tell({s: losses[s[0]][None] for s in contenders})
    assert looked > 0.5 * losses.size
    assert _best(race.scores(), 1) == [int(losses[:, groups == 1].mean(1).argmin())]


def test_a_strict_bound_knows_what_a_window_counts_for() -> None:
    """Nothing varies here, so that the radius is the range's part alone."""
    groups = np.array([0] * 40 + [1] * 360)
    losses = np.repeat([[0.0], [1.0]], 400, axis=1)

    def looked(shares: tuple[float, float]) -> int:
        table = Table(groups.tolist(), (0.0, 1.0))
        table.weighting = Weighting(groups, shares, np.full(400, 1))
        race = Race([(0,), (1,)], 1, Racing(), table, range(400), 1)  # type: ignore[arg-type]
        total = 0
        for places, contenders in race:
            total += len(places) * len(contenders)
            race.tell({s: losses[s[0]][None] for s in contenders})
        return total

    assert looked((0.3, 0.7)) > 1.5 * looked((0.1, 0.9))
