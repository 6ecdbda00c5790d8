"""The walk computes every shared prefix once, and nothing twice."""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakSet

from hypothesis import given
from hypothesis import strategies as st

from depthprune.evaluator.prefix_walk import (
    RemovedSet,
    block_runs,
    split_to_fit,
    walk,
    widest,
)

BLOCKS = 7
subsets = st.frozensets(st.integers(0, BLOCKS - 1)).map(lambda s: tuple(sorted(s)))
families = st.frozensets(subsets, min_size=1, max_size=24)


def _walked(sets: frozenset[RemovedSet]) -> tuple[dict[RemovedSet, str], list[tuple[str, int]]]:
    """Walk with states that are the names of the blocks run, and note every run."""
    runs: list[tuple[str, int]] = []

    def advance(block: int, states: list[str]) -> list[str]:
        runs.extend((state, block) for state in states)
        return [f"{state}{block}" for state in states]

    return dict(walk(sets, BLOCKS, "", advance)), runs


@given(families)
def test_each_set_ends_with_the_state_of_its_kept_blocks(sets: frozenset[RemovedSet]) -> None:
    ends, _ = _walked(sets)
    assert ends == {s: "".join(str(b) for b in range(BLOCKS) if b not in s) for s in sets}


@given(families)
def test_the_runs_spent_are_the_distinct_pairs_of_prefix_and_block(
    sets: frozenset[RemovedSet],
) -> None:
    _, runs = _walked(sets)
    pairs = {
        (tuple(b for b in s if b < block), block)
        for s in sets
        for block in range(BLOCKS)
        if block not in s
    }
    assert len(runs) == len(set(runs)) == len(pairs) == block_runs(sets, BLOCKS)


@given(families)
def test_no_more_states_are_held_than_were_foretold(sets: frozenset[RemovedSet]) -> None:
    """Those that a block was run on wait until all of them have an answer."""
    alive: WeakSet[Any] = WeakSet()
    most = 0

    def state() -> Any:
        nonlocal most
        made: Any = type("State", (), {})()
        alive.add(made)
        most = max(most, len(alive))
        return made

    start = state()
    for _end in walk(sets, BLOCKS, start, lambda block, states: [state() for _ in states]):
        pass
    # The state before the first block may be that of a set without the first blocks, too.
    assert most <= widest(sets, BLOCKS) <= most + 1


@given(families, st.integers(1, 20))
def test_what_is_walked_beside_all_counts_in_each(sets: frozenset[RemovedSet], limit: int) -> None:
    groups = split_to_fit(sorted(sets - {()}), BLOCKS, limit, beside=[()])
    assert all(group[0] == () for group in groups)
    assert sorted(s for group in groups for s in group[1:]) == sorted(sets - {()})
    assert all(len(group) <= 2 or widest(group, BLOCKS) <= limit for group in groups)


@given(families, st.integers(1, 8))
def test_splitting_loses_no_set_and_fits(sets: frozenset[RemovedSet], limit: int) -> None:
    groups = split_to_fit(sorted(sets), BLOCKS, limit)
    assert sorted(itertools.chain(*groups)) == sorted(sets)
    assert all(len(group) == 1 or widest(group, BLOCKS) <= limit for group in groups)


def test_one_shot_costs_half_of_plain_forwards() -> None:
    sets = [(), *((block,) for block in range(30))]
    assert block_runs(sets, 30) == 30 * 31 // 2
    assert 30 + 30 * 29 == 900


def test_a_removed_block_shares_the_state_before_it() -> None:
    class Marker:
        pass

    start = Marker()
    ((_, state),) = walk([tuple(range(BLOCKS))], BLOCKS, start, lambda block, states: states)
    assert state is start
