"""A budget stops a search, and its best set so far is the result."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise as neighbours
from typing import Any

import pytest

from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import Cost
from depthprune.searches import (
    SEARCHES,
    Ask,
    Budget,
    Space,
    parse_budget,
    search,
)
from depthprune.searches import session as run_module
from depthprune.searches.session import TracePoint
from landscapes import additive, rugged

DAMAGE = [0.9, 0.2, 0.7, 0.1, 0.4, 0.3]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("200", Budget(evaluations=200)),
        (" evaluations=200 ", Budget(evaluations=200)),
        ("1e3", Budget(evaluations=1000)),
        ("5e7bt", Budget(block_tokens=5e7)),
        ("block-tokens=5e7", Budget(block_tokens=5e7)),
        ("90s", Budget(seconds=90)),
        ("10min", Budget(seconds=600)),
        ("1.5h", Budget(seconds=5400)),
        ("200,10min", Budget(evaluations=200, seconds=600)),
    ],
)
def test_a_budget_is_read_and_written_as_it_is_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget
    assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "many", "-5", "0", "10 minutes", "5e7 tokens", "seconds=10s", "1e999", "nan"]
)
def test_what_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--budget: expected evaluations such as 200") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_a_limit_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="expected each limit once, got '200,300'"):
        parse_budget("200,300")


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="got nothing"):
        Budget()


@pytest.mark.parametrize("left", [1, 0.5])
def test_it_is_spent_when_any_of_its_limits_is_reached(left: float) -> None:
    budget = Budget(evaluations=10, block_tokens=100, seconds=5)
    assert budget.spent(Cost(evaluations=10), 0)
    assert budget.spent(Cost(asked_block_tokens=100), 0)
    assert budget.spent(Cost(), 5)
    assert not budget.spent(Cost(evaluations=10 - left, asked_block_tokens=99), 5 - left)


@pytest.mark.parametrize("evaluations", [34, 40, 61])
@pytest.mark.parametrize("name", ["genetic", "local-search", "annealing", "fast-block-select"])
def test_evaluations_are_never_exceeded_and_the_best_so_far_is_the_result(
    name: str, evaluations: int
) -> None:
    landscape = rugged(32, 1)
    found = search(name, landscape, k=4, budget=Budget(evaluations=evaluations))
    assert found.stopped or name == "fast-block-select"
    assert found.cost.evaluations <= evaluations
    scored = [s for s in landscape.asked if len(s) == 4]
    assert found.removed == min(scored, key=landscape._loss)
    assert found.budget == Budget(evaluations=evaluations)


def test_an_ask_that_cannot_be_paid_for_whole_is_scored_as_far_as_it_can_be() -> None:
    landscape = additive(DAMAGE)
    found = search("exhaustive", landscape, k=2, budget="7")
    assert found.cost.evaluations == 7
    assert landscape.asked == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3)]
    assert found.removed == (1, 3)
    assert [point.removed for point in found.trace] == [(1, 3)]


def test_evolution_pays_for_windows_in_parts() -> None:
    landscape = rugged(32, 1, windows=64)
    found = search("evolution", landscape, k=4, budget=Budget(evaluations=10.5))
    assert found.stopped
    assert 10 <= found.cost.evaluations <= 10.5
    seen = [s for sets, count in landscape.calls if count == 16 for s in sets]
    assert found.removed == min(seen, key=landscape._loss)


@pytest.mark.parametrize("name", [n for n in SEARCHES.names() if n != "evolution"])
def test_a_budget_that_is_just_enough_changes_nothing(name: str) -> None:
    full = search(name, rugged(12, 1), k=3)
    again = search(
        name, rugged(12, 1), k=3, budget=Budget(evaluations=max(full.cost.evaluations, 73))
    )
    assert not again.stopped
    assert (again.removed, again.trace) == (full.removed, full.trace)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("one-shot", 12),
        ("greedy", 12 + 11 + 1),
        ("beam", 12 + 5 * 11 + 1),
        ("genetic", 13),
        ("bayesian", 13),
        ("cbo", 12 + 66 + 1),
        ("local-search", 13),
        ("annealing", 13),
    ],
)
def test_a_budget_below_what_a_search_needs_to_start_is_refused(name: str, least: int) -> None:
    landscape = rugged(12, 1)
    with pytest.raises(
        UsageError, match=f"--budget: {name} needs {least} evaluations to have a first set of 3"
    ):
        search(name, landscape, k=3, budget=Budget(evaluations=least - 1))
    assert landscape.calls == []
    assert len(search(name, landscape, k=3, budget=Budget(evaluations=least)).removed) == 3


def test_block_tokens_are_looked_at_before_each_ask() -> None:
    landscape = additive(DAMAGE)
    found = search("annealing:steps=50", landscape, k=2, budget=Budget(block_tokens=60))
    spent = [point.cost.block_tokens for point in found.trace]
    assert found.stopped
    assert spent[-2] < 60 <= spent[-1] <= 64
    assert all(a < b for a, b in neighbours(spent))


def test_seconds_are_looked_at_before_each_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock))
    found = search("annealing", rugged(12, 1), k=3, budget="5s")
    assert found.stopped
    assert len(found.trace) == 4


QUICK = {"bayesian": "bayesian:trials=20"}


def assert_stops_after(name: str, budget: Budget, trace: Sequence[TracePoint], asks: int) -> None:
    """It asks what it would without a budget, so often, and its best so far is the result."""
    landscape = rugged(12, 1, windows=64)
    if asks < len(trace) and len(trace[asks - 1].removed) < 3:
        with pytest.raises(EvaluationError, match=f"{budget} was spent before .* a set of 3"):
            search(name, landscape, k=3, budget=budget)
        return
    found = search(name, landscape, k=3, budget=budget)
    assert list(found.trace) == list(trace[:asks])
    assert found.stopped == (asks < len(trace))
    assert len(found.removed) == 3
    assert found.removed == found.trace[-1].removed or not found.stopped


@pytest.mark.parametrize("name", SEARCHES.names())
def test_block_tokens_stop_any_search_after_the_ask_that_reaches_them(name: str) -> None:
    text = QUICK.get(name, name)
    full = search(text, rugged(12, 1, windows=64), k=3)
    half = full.cost.block_tokens // 2
    spent = [point.cost.block_tokens for point in full.trace]
    asks = next(number for number, tokens in enumerate(spent, 1) if tokens >= half)
    assert_stops_after(text, Budget(block_tokens=half), full.trace, asks)


@pytest.mark.parametrize("name", SEARCHES.names())
def test_seconds_stop_any_search_before_an_ask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = QUICK.get(name, name)
    full = search(text, rugged(12, 1, windows=64), k=3)
    # A tick at the beginning and one before each ask or measurement: the third ask is too late.
    clock = iter(range(10_000))
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock))
    assert_stops_after(text, Budget(seconds=3), full.trace, min(2, len(full.trace)))


def test_a_budget_spent_before_there_is_a_set_of_size_k_is_an_error() -> None:
    with pytest.raises(
        EvaluationError, match="block-tokens=10 was spent before greedy had a set of 3 blocks"
    ):
        search("greedy", additive(DAMAGE), k=3, budget=Budget(block_tokens=10))


def test_with_a_size_rule_the_path_so_far_is_the_result() -> None:
    found = search("greedy", additive(DAMAGE), k=5, budget="12", enough=lambda removed: False)
    # The first two sizes take 6 + 5 evaluations.
    assert (found.removed, found.path, found.stopped) == ((1, 3), ((3,), (1, 3)), True)


def test_what_is_known_costs_nothing() -> None:
    class Again:
        name, summary, grows = "again", "asks twice for the same", False

        def plan(self, space: Space, rng: random.Random) -> Any:
            yield Ask(((0, 1), (1, 3)), keep=1)
            yield Ask(((1, 3), (0, 1)), keep=1)
            return (1, 3)

    found = search(Again(), additive(DAMAGE), k=2, budget=Budget(evaluations=2))
    assert (found.removed, found.stopped, found.cost.evaluations) == ((1, 3), False, 2)
