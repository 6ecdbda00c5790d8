"""No search asks for a set of which no model could be saved, and none ends in one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.errors import EvaluationError, UsageError
from depthprune.searches import (
    SEARCHES,
    Ask,
    Method,
    Refusal,
    RemovedSet,
    Space,
    make_space,
    search,
)
from landscapes import Landscape, additive, optimum, rugged

ALL = SEARCHES.names()
QUICK = {"bayesian": "bayesian:trials=20,starts=4", "annealing": "annealing:steps=40"}
IN_A_ROW = ["window", "angular"]
"""Searches whose sets are blocks in a row, of which there may be none where others are."""
BLOCKS = 9
DAMAGE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def keep_one_of(*groups: Collection[int]) -> Refusal:
    """As a hybrid: of each group a block must stay."""

    def refusal(removed: RemovedSet) -> str | None:
        gone = next((g for g in groups if set(g) <= set(removed)), None)
        return None if gone is None else f"keep one of {sorted(gone)}"

    return refusal


def keep_lender(lender: int, borrowers: Collection[int]) -> Refusal:
    """As shared keys and values: a block stays while one that reads it does."""

    def refusal(removed: RemovedSet) -> str | None:
        stays = set(borrowers) - set(removed)
        return f"block {min(stays)} reads {lender}" if lender in removed and stays else None

    return refusal


def first_of(kinds: str, wanted: str) -> Refusal:
    """The first kept block must be of a kind."""

    def refusal(removed: RemovedSet) -> str | None:
        first = next(b for b in range(len(kinds)) if b not in removed)
        return None if kinds[first] == wanted else f"the first block would be {kinds[first]}"

    return refusal


def savable(refusal: Refusal, k: int, blocks: int = BLOCKS) -> list[RemovedSet]:
    return [s for s in itertools.combinations(range(blocks), k) if refusal(s) is None]


def run(name: str, landscape: Landscape, k: int, refusal: Refusal, **options: Any) -> Any:
    return search(QUICK.get(name, name), landscape, k=k, refusal=refusal, **options)


groups = st.lists(st.sets(st.integers(0, BLOCKS - 1), min_size=1, max_size=3), max_size=3)
refusals = st.one_of(
    groups.map(lambda found: keep_one_of(*found)),
    st.builds(keep_lender, st.integers(0, 8), st.sets(st.integers(0, 8), min_size=1, max_size=3)),
    st.text("ab", min_size=BLOCKS, max_size=BLOCKS).map(lambda kinds: first_of(kinds, kinds[0])),
    st.sets(st.sets(st.integers(0, 8), min_size=2, max_size=4).map(lambda s: tuple(sorted(s)))).map(
        lambda table: lambda removed: "listed" if removed in table else None
    ),
)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(refusal=refusals, k=st.integers(1, 7), seed=st.integers(0, 99))
def test_no_search_asks_for_a_refused_set_or_ends_in_one(
    name: str, refusal: Refusal, k: int, seed: int
) -> None:
    landscape = rugged(BLOCKS, seed, windows=8)
    try:
        found = run(name, landscape, k, refusal, seed=seed)
    except (EvaluationError, UsageError) as error:
        assert "go" in str(error)  # noqa: PT017 - a dead end, told in one line
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(found.removed) == k
        assert all(refusal(grown) is None for grown in (*found.path, found.removed))
    assert [s for s in landscape.asked if refusal(s) is not None] == []


@pytest.mark.parametrize("name", [name for name in ALL if name not in IN_A_ROW])
@settings(max_examples=25, deadline=None)
@given(found=groups, k=st.integers(1, 8))
def test_where_one_of_each_kind_must_stay_a_search_finds_a_set_if_there_is_one(
    name: str, found: list[set[int]], k: int
) -> None:
    disjoint: list[set[int]] = []
    for group in found:
        if group.isdisjoint(set().union(*disjoint)):
            disjoint.append(group)
    refusal = keep_one_of(*disjoint)
    if savable(refusal, k):
        assert refusal(run(name, additive(DAMAGE), k, refusal).removed) is None
    else:
        with pytest.raises(UsageError, match=r"at most \d of 9 blocks can go together .*keep one"):
            run(name, additive(DAMAGE), k, refusal)


@pytest.mark.parametrize(
    "name",
    ["one-shot", "greedy", "beam", "cbo", "local-search", "exhaustive", "block-influence"],
)
def test_where_removals_add_up_the_best_set_is_the_best_of_those_that_may_go(name: str) -> None:
    refusal = keep_one_of((0, 1), (2, 4))
    allowed = savable(refusal, 4)
    best = min(allowed, key=lambda s: sum(DAMAGE[b] for b in s))
    found = run(name, additive(DAMAGE), 4, refusal)
    assert found.removed == best == (0, 2, 3, 5)
    assert optimum(additive(DAMAGE), 4)[0] == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ALL)
def test_a_model_without_refusals_is_searched_as_ever(name: str) -> None:
    first, second = rugged(BLOCKS, 1, windows=8), rugged(BLOCKS, 1, windows=8)
    settled = search(QUICK.get(name, name), first, k=3)
    assert run(name, second, 3, lambda removed: None).removed == settled.removed
    assert first.calls == second.calls


def test_a_block_that_may_not_go_alone_stays() -> None:
    assert make_space(5, 2, refusal=keep_lender(1, (3,))).free == (0, 2, 3, 4)
    with pytest.raises(UsageError, match=r"-k 4: at most 3 of 5 blocks .*keep one of \[0, 1\]"):
        make_space(5, 4, refusal=keep_one_of((0, 1), (2, 3)))


def test_an_evaluator_may_say_itself_what_is_refused() -> None:
    landscape = additive(DAMAGE)
    landscape.refusal = keep_one_of((0, 1))  # type: ignore[attr-defined]
    assert search("greedy", landscape, k=2).removed == (0, 2)


def test_a_rule_of_size_is_content_with_what_a_dead_end_leaves() -> None:
    # After 0, which is cheapest, nothing may go; 1 and 2 may go together.
    def refusal(removed: RemovedSet) -> str | None:
        return "0 goes alone" if 0 in removed and len(removed) > 1 else None

    with pytest.raises(EvaluationError, match=r"-k 2: without 0 no further block can go \(0 goes"):
        run("greedy", additive(DAMAGE), 2, refusal)
    assert run("greedy", additive(DAMAGE), 2, refusal, enough=lambda s: False).removed == (0,)


class Blind:
    """A search from elsewhere that knows nothing of refusals."""

    name = "blind"
    summary = "the best of all pairs"
    grows = False
    ends: RemovedSet = ()

    def plan(self, space: Space, rng: random.Random) -> Any:
        pairs = tuple(itertools.combinations(space.free, 2))
        scores = yield Ask(pairs, keep=1)
        return self.ends or min(zip([s.loss for s in scores], pairs, strict=True))[1]


def test_to_a_search_that_asks_for_a_refused_set_its_loss_is_infinite() -> None:
    landscape = additive(DAMAGE)
    assert search(Blind(), landscape, k=2, refusal=keep_one_of((0, 1))).removed == (0, 2)
    assert (0, 1) not in landscape.asked
    blind = Blind()
    blind.ends = (0, 1)
    with pytest.raises(EvaluationError, match=r"search 'blind' chose \(0, 1\).*keep one of"):
        search(blind, landscape, k=2, refusal=keep_one_of((0, 1)))


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 1.5}, {"windows": 0}, {"windows": 2.5}])
def test_an_ask_with_numbers_that_mean_nothing_is_refused_by_name(wrong: dict[str, Any]) -> None:
    class Careless(Method):
        method = "careless"
        summary = "asks without care"

        def plan(self, space: Space, rng: random.Random) -> Any:
            yield Ask(((0,), (1,)), **{"keep": 1, **wrong})
            return (0,)

    with pytest.raises(EvaluationError, match=f"'careless' asked with {next(iter(wrong))}="):
        search(Careless(), additive([1.0] * BLOCKS), k=1)
