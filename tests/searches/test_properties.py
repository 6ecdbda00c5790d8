"""Whatever the space, the seed and the budget: what a search asks for and returns is in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from depthprune.errors import UsageError
from depthprune.evaluator import RemovedSet
from depthprune.searches import (
    SEARCHES,
    Budget,
    make_search,
    make_space,
    search,
)
from depthprune.searches.registry import least_evaluations
from landscapes import Landscape, rugged

QUICK = {
    "genetic": "genetic:population=6,generations=3",
    "bayesian": "bayesian:trials=8,starts=4",
    "cbo": "cbo:candidates=2",
    "annealing": "annealing:steps=15",
    "random": "random:samples=12",
    "evolution": "evolution:offspring=6",
}
COMPARES_AGAIN = ["genetic", "cbo", "evolution"]
"""A set that was scored before is asked for again only beside new ones, with which it is compared,
but by these: the last generation's elite and parent, and CBO's candidates where its pairs are of
their size. With k = 1 the single blocks, which many begin with, are of the size of the sets. What
is known is not paid for again."""


@dataclass(frozen=True)
class Case:
    """A space to be searched, and how."""

    blocks: int
    k: int
    protect: tuple[int, ...]
    windows: int
    seed: int
    extra: int | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    blocks = draw(st.integers(2, 9))
    k = draw(st.integers(1, blocks - 1))
    protect = draw(st.sets(st.integers(0, blocks - 1), max_size=blocks - k))
    return Case(
        blocks,
        k,
        tuple(sorted(protect)),
        draw(st.sampled_from([1, 7, 64])),
        draw(st.integers(0, 99)),
        draw(st.none() | st.integers(0, 20)),
    )


def landscape_of(case: Case) -> Landscape:
    """Losses rounded so that many tie."""
    exact = rugged(case.blocks, case.seed)
    return Landscape(case.blocks, lambda s: round(exact._loss(s), 1), windows=case.windows)


def budget_of(name: str, case: Case) -> Budget | None:
    space = make_space(case.blocks, case.k, case.protect, case.windows)
    try:
        least = least_evaluations(make_search(name), space)
    except UsageError:
        assume(False)
    return None if case.extra is None else Budget(evaluations=least + case.extra)


def assert_in_order(sets: Sequence[RemovedSet], case: Case) -> None:
    for removed in sets:
        assert 1 <= len(removed) <= case.k
        assert list(removed) == sorted(set(removed))
        assert all(0 <= block < case.blocks for block in removed)
        assert not set(removed) & set(case.protect)


@pytest.mark.parametrize("name", SEARCHES.names())
@settings(max_examples=25)
@given(case=cases())
def test_no_set_is_of_the_wrong_size_or_protected_or_paid_for_twice(name: str, case: Case) -> None:
    landscape = landscape_of(case)
    text = QUICK.get(name, name)
    budget = budget_of(text, case)
    found = search(text, landscape, k=case.k, seed=case.seed, protect=case.protect, budget=budget)
    assert len(found.removed) == case.k
    assert_in_order([*landscape.asked, found.removed, *found.path], case)
    assert math.isclose(found.score.loss, landscape._loss(found.removed))

    # The last call is the result's own score, which is the caller's.
    asks = [([s for s in sets if s], count) for sets, count in landscape.calls[:-1]]
    seen: dict[RemovedSet, int] = {}
    paid = 0
    for sets, count in asks:
        windows = count or case.windows
        assert len(set(sets)) == len(sets)
        again = [s for s in sets if seen.get(s, 0) >= windows]
        assert len(again) < len(sets) or not sets or name in COMPARES_AGAIN or case.k == 1
        paid += sum(max(0, windows - seen.get(s, 0)) for s in sets)
        seen |= {s: max(windows, seen.get(s, 0)) for s in sets}
    assert math.isclose(found.cost.evaluations, paid / case.windows)
    assert budget is None or found.cost.evaluations <= (budget.evaluations or 0) + 1e-9


@pytest.mark.parametrize("name", SEARCHES.names())
@settings(max_examples=15)
@given(case=cases())
def test_the_trace_is_the_best_so_far_against_a_cost_that_grows(name: str, case: Case) -> None:
    text = QUICK.get(name, name)
    budget = budget_of(text, case)
    found = search(
        text, landscape_of(case), k=case.k, seed=case.seed, protect=case.protect, budget=budget
    )
    assert found.trace
    for before, after in pairwise(found.trace):
        assert before.cost.evaluations <= after.cost.evaluations
        assert before.cost.block_tokens <= after.cost.block_tokens
        assert len(before.removed) <= len(after.removed)
        if len(before.removed) == len(after.removed) and case.windows == 1:
            assert after.loss <= before.loss
    assert found.trace[-1].cost == found.cost
