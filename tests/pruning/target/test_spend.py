"""The budget goes to calibrations that keep the target; the two to beat are always searched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from depthprune.errors import EvaluationError, NoWorkersError, UsageError
from depthprune.evaluator import Cost
from depthprune.pruning.target.budgets import require_budget
from depthprune.pruning.target.choose import break_tie, race
from depthprune.pruning.target.spend import CONSENSUS, FEW, RACED
from depthprune.pruning.target.trials import Rules, Spent
from depthprune.searches import Budget, make_search
from landscapes import Estimates, Landscape
from planted import WINDOWS, Planted, costs, found


def _chosen(planted: Planted) -> tuple[int, ...]:
    spent = planted.spend()
    sets = found(spent)
    tied, _ = race(planted.bench.choose, sets, looked=len(sets), first=WINDOWS)
    general = dict(zip(sets, planted.bench.general(sets), strict=True))
    return break_tie(tied, general, dict(zip(sets, planted.bench.choose.score(sets), strict=True)))


def test_where_the_tasks_calibration_is_clearly_better_it_wins() -> None:
    planted = Planted(costs(4, 5), costs(0, 1), noise=0.1, default=costs(0, 1), target=costs(4, 5))
    assert _chosen(planted) == (4, 5)


def test_where_the_task_misleads_on_few_data_the_default_wins() -> None:
    # What may be calibrated on says one thing, and what chooses, of the same task, another.
    planted = Planted(costs(0, 1), costs(0, 1), noise=0.1, default=costs(0, 1), target=costs(4, 5))
    assert _chosen(planted) == (0, 1)


def test_where_all_tie_the_set_that_loses_least_in_general_is_taken() -> None:
    def alike(removed: tuple[int, ...]) -> float:
        return 3.0

    planted = Planted(alike, costs(2, 3), noise=0.3, default=costs(0, 1), target=costs(4, 5),
                      other=costs(2, 3))  # fmt: skip
    assert _chosen(planted) == (2, 3)


def test_a_third_calibration_may_beat_both() -> None:
    planted = Planted(costs(2, 3), costs(0, 1), noise=0.1, default=costs(0, 1),
                      target=costs(4, 5), other=costs(2, 3))  # fmt: skip
    assert _chosen(planted) == (2, 3)


def test_the_default_and_the_task_are_searched_on_all_windows() -> None:
    planted = Planted(
        costs(2, 3), costs(0, 1), default=costs(0, 1), target=costs(4, 5), other=costs(2, 3)
    )
    spent = planted.spend()
    assert (spent.default, spent.task) == ((0, 1), (4, 5))
    whole = {t.arm for t in spent.trials if t.share == 1 and t.search == "greedy"}
    assert {"default, draw 1", "target, draw 1"} <= whole


def test_all_are_tried_on_few_windows_and_only_the_best_on_all() -> None:
    arms = {f"arm{i}": costs(i, i + 1) for i in range(6)}
    planted = Planted(costs(5, 6), costs(0, 1), default=costs(0, 1), target=costs(0, 1), **arms)
    spent = planted.spend()
    cheap = [t for t in spent.trials if t.search == "one-shot" and t.arm != CONSENSUS]
    assert len(cheap) == len(arms) + 2
    assert {trial.share for trial in cheap} == {FEW}
    dear = {t.arm for t in spent.trials if t.share == 1 and t.search == "greedy"}
    assert "arm5, draw 1" in dear
    assert len(dear) <= 4
    # Those that were not searched on all windows were never scored on all of them.
    calls = planted.scorers["arm0"].calls
    assert all(windows is not None and windows < WINDOWS for _, windows in calls)


def test_the_consensus_is_a_set_that_is_good_on_all() -> None:
    def one(removed: tuple[int, ...]) -> float:
        return 3.0 + sum({0: 0.0, 2: 0.1}.get(b, 1.0) for b in removed)

    def other(removed: tuple[int, ...]) -> float:
        # A hundred times the scale of the first.
        return 300.0 + 100 * sum({1: 0.0, 2: 0.1}.get(b, 1.0) for b in removed)

    planted = Planted(costs(2, 7), costs(0, 1), default=one, target=other)
    spent = planted.spend()
    (consensus,) = {t.removed for t in spent.trials if t.arm == CONSENSUS and t.share == FEW}
    assert 2 in consensus


def swapped(removed: tuple[int, ...]) -> float:
    """What no search comes to by itself: five single swaps of (0, 1) are better than it."""
    if len(removed) == 1:
        return {6: 3.1, 7: 3.2}.get(removed[0], 4.0)
    pairs = {(0, 1): 4.0, (0, 2): 3.8, (0, 3): 3.7, (0, 4): 3.6, (0, 5): 3.5, (1, 2): 3.9}
    return pairs.get(removed, 5.0)


def of_swaps(spent: Spent) -> list[tuple[tuple[int, ...], float]]:
    return [(trial.removed, trial.share) for trial in spent.trials if trial.search == "swap"]


@pytest.mark.parametrize("kind", [Landscape, Estimates])
def test_the_leaders_best_swaps_are_tried_on_the_task(kind: type[Landscape]) -> None:
    planted = Planted(swapped, costs(0, 1), default=costs(0, 1), target=swapped)
    planted.scorers["target"].__class__ = kind
    spent = planted.spend()
    assert spent.rounds[-2].leader == (0, 1)
    assert of_swaps(spent) == [((0, end), 1.0) for end in (5, 4, 3, 2)]
    assert spent.rounds[-1].leader == spent.leader == (0, 5)


def test_of_a_leader_that_no_swap_betters_none_is_tried_further() -> None:
    planted = Planted(costs(4, 5), costs(0, 1), default=costs(0, 1), target=costs(4, 5))
    spent = planted.spend()
    assert spent.rounds[-1].name == "swaps of the leader"
    assert of_swaps(spent) == []


@pytest.mark.parametrize("limit", ["evaluations", "block_tokens"])
@pytest.mark.parametrize(("lacking", "share"), [(0, 1.0), (2, FEW)])
def test_swaps_are_tried_on_as_many_windows_as_can_be_paid_for(
    limit: str, lacking: int, share: float
) -> None:
    """Thirteen sets of two blocks; greedy's own fifteen are what a set is foreseen to take."""

    def of(cost: Cost) -> float:
        return cost.evaluations if limit == "evaluations" else cost.asked_block_tokens

    def planted() -> Planted:
        return Planted(swapped, costs(0, 1), default=costs(0, 1), target=swapped)

    before = of(planted().spend().rounds[-2].cost)
    twin = planted()
    greedy = of(twin._foresee(Rules(make_search("greedy"), 2))(None, "greedy", 1.0))
    for part, tried in ((RACED, {share}), (FEW, set() if lacking else {FEW})):
        needed = before + part * greedy * 13 / 15
        spent = planted().spend(Budget(**{limit: needed + 1 - lacking}), reserve=0.0)
        assert {each for _, each in of_swaps(spent)} == tried


def test_a_search_on_all_windows_is_begun_where_as_much_is_left_as_a_race_takes() -> None:
    def planted() -> Planted:
        return Planted(costs(2, 3), costs(0, 1), default=costs(0, 1), target=costs(2, 3))

    before = planted().spend().rounds[0].cost.evaluations
    for left, default in ((RACED * 15 - 1, None), (RACED * 15 + 1, (0, 1))):
        budget = Budget(evaluations=before + left)
        assert planted().spend(budget, reserve=0.0).default == default


def test_no_calibration_is_searched_on_all_windows_twice() -> None:
    planted = Planted(costs(2, 3), costs(0, 1), default=costs(0, 1), target=costs(4, 5))
    spent = planted.spend()
    whole = [t.arm for t in spent.trials if t.share == 1 and t.search == "greedy"]
    assert len(whole) == len(set(whole)) > 1


def test_a_third_of_the_calibrations_goes_on_and_of_all_a_sixth_each_rounded_up() -> None:
    """Of seven and the consensus; two of them were searched on all windows before."""
    arms = {f"arm{i}": costs(i, i + 1) for i in range(2, 7)}
    planted = Planted(costs(5, 6), costs(0, 1), default=costs(0, 1), target=costs(0, 1), **arms)
    tried = {each.name: each.tried for each in planted.spend().rounds}
    assert tried["one-shot, some windows"] == 7
    assert (tried["greedy, some windows"], tried["greedy, all windows"]) == (3, 2)


def test_a_calibration_is_known_by_the_best_of_its_sets() -> None:
    """Here one-shot's, so that it goes on to all windows though greedy's set is none."""

    def other(removed: tuple[int, ...]) -> float:
        if len(removed) == 1:
            return {2: 3.1, 3: 3.2}.get(removed[0], 4.0)
        return 3.5 if removed == (2, 4) else 5.0

    def target(removed: tuple[int, ...]) -> float:
        return 3.0 + sum({2: 0.5, 3: 0.05}.get(b, 1.0) for b in removed)

    arms = {"default": costs(0, 1), "target": costs(0, 1), "other": other, "near": costs(3, 4)}
    spent = Planted(target, costs(0, 1), **arms).spend()
    found = [(t.removed, t.share) for t in spent.trials if t.arm == "other, draw 1"]
    assert found == [((2, 3), FEW), ((2, 4), FEW), ((2, 4), 1.0)]


def test_of_many_draws_of_a_calibration_one_is_in_the_consensus() -> None:
    def task(removed: tuple[int, ...]) -> float:
        return 3.0 + sum({0: 1.5, 1: 1.5, 2: 0.0, 3: 0.0}.get(b, 1.0) for b in removed)

    planted = Planted(task, costs(0, 1), default=costs(0, 1), target=task)
    default = planted.configurations[0]
    planted.configurations += [replace(default, draw=draw) for draw in (1, 2)]
    (consensus,) = {t.removed for t in planted.spend().trials if t.arm == CONSENSUS}
    assert consensus == (2, 3)


def test_the_two_to_beat_are_searched_whatever_was_spent_where_the_budget_is_made_for_it() -> None:
    arms = {"default": costs(0, 1), "target": costs(4, 5), "other": costs(2, 3)}
    for sure in (False, True):
        spent = Planted(costs(2, 3), costs(0, 1), **arms).spend("1 evaluations", sure=sure)
        whole = {t.arm for t in spent.trials if t.search == "greedy"}
        assert whole == ({"default, draw 1", "target, draw 1"} if sure else set())


def test_sets_are_looked_at_once_and_on_the_targets_first_windows() -> None:
    planted = Planted(costs(2, 3), costs(0, 1), default=costs(0, 1), target=costs(2, 3))
    spent = planted.spend(first=8)
    calls = planted.scorers["choose"].calls
    assert {windows for _, windows in calls} == {8}
    looked = [removed for sets, _ in calls for removed in sets]
    assert sorted(looked) == sorted(spent.first)


def test_one_calibration_alone_makes_no_consensus() -> None:
    spent = Planted(costs(0, 1), costs(0, 1), default=costs(0, 1)).spend()
    assert CONSENSUS not in {trial.arm for trial in spent.trials}


def test_what_is_not_finite_anywhere_goes_on_to_no_further_round() -> None:
    def nothing(removed: tuple[int, ...]) -> float:
        return float("nan")

    bad = {f"bad{i}": nothing for i in range(3)}
    planted = Planted(costs(0, 1), costs(0, 1), default=costs(0, 1), **bad)
    planted.spend()
    asked = [len(planted.scorers[name].calls) for name in bad]
    assert asked == [asked[0]] * 3


def test_nothing_is_spent_beyond_the_budget_but_the_search_that_was_begun() -> None:
    arms = {f"arm{i}": costs(i, i + 1) for i in range(6)}
    planted = Planted(costs(5, 6), costs(0, 1), default=costs(0, 1), target=costs(0, 1), **arms)
    spent = planted.spend("60 evaluations")
    # A greedy search for two of eight blocks takes fifteen.
    assert spent.rounds[-1].cost.evaluations <= 60 + 15


def test_spending_twice_spends_the_same_and_comes_to_the_same() -> None:
    def once() -> tuple[object, ...]:
        planted = Planted(costs(2, 3), costs(0, 1), 0.2, default=costs(0, 1), target=costs(4, 5))
        spent = planted.spend()
        return spent.trials, spent.rounds

    assert once() == once()


def test_a_budget_below_the_first_round_is_refused_with_what_it_takes() -> None:
    with pytest.raises(UsageError, match="tries 10 calibrations and takes 75 evaluations, got 50"):
        require_budget(Budget(evaluations=50), Cost(evaluations=75), 10)
    require_budget(Budget(evaluations=75), Cost(evaluations=75), 10)


def test_a_calibration_without_a_finite_loss_is_left_out() -> None:
    planted = Planted(
        costs(0, 1), costs(0, 1), default=costs(0, 1), target=lambda removed: float("nan")
    )
    spent = planted.spend()
    assert list(spent.left_out) == ["target, draw 1"]
    assert spent.default == (0, 1)


def test_workers_that_are_gone_are_no_fault_of_a_calibration() -> None:
    def gone(removed: tuple[int, ...]) -> float:
        raise NoWorkersError("no worker is left")

    planted = Planted(costs(0), costs(0), default=costs(0), target=gone)
    with pytest.raises(NoWorkersError):
        planted.spend()


def test_where_no_calibration_gives_a_set_it_is_said_why() -> None:
    planted = Planted(costs(0), costs(0), default=lambda removed: float("nan"))
    with pytest.raises(EvaluationError, match="no calibration gave a set with a finite loss"):
        planted.spend()
