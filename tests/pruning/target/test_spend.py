"""The budget goes to calibrations that keep the target; the two to beat are always searched."""

from __future__ import annotations

import pytest

from depthprune.errors import EvaluationError, NoWorkersError, UsageError
from depthprune.evaluator import Cost
from depthprune.pruning.target.budgets import require_budget
from depthprune.pruning.target.choose import break_tie, race
from depthprune.pruning.target.spend import CONSENSUS, FEW
from depthprune.searches import Budget
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


def test_the_leaders_swaps_are_tried_on_the_task() -> None:
    # No search on one calibration alone comes to the pair, which is one swap from the default's.
    def task(removed: tuple[int, ...]) -> float:
        crossed = 1.5 if {4, 5} <= set(removed) else 0.0
        return 3.0 + crossed + sum({4: 0.1, 5: 0.1, 0: 0.3, 1: 0.35}.get(b, 1.0) for b in removed)

    planted = Planted(task, costs(0, 1), default=costs(0, 1), target=task)
    spent = planted.spend()
    swapped = [trial.removed for trial in spent.trials if trial.search == "swap"]
    for removed in swapped:
        assert any(len(set(removed) & set(t.removed)) == 1 for t in spent.trials)


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
