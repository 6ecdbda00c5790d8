"""Fast-block-select: groups that were scored as groups make the cheapest cover."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from depthprune.searches import search
from depthprune.searches.common.protocol import Space
from depthprune.searches.fast_block_select import FastBlockSelect, cheapest_cover
from landscapes import pairwise, rugged

RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def least_sum(increase: dict[tuple[int, ...], float], k: int) -> float:
    """Of all choices of groups that share no block and hold k together."""
    sums = [math.inf]
    for count in range(1, k + 1):
        for groups in itertools.combinations(increase, count):
            blocks = [block for group in groups for block in group]
            if len(blocks) == len(set(blocks)) == k:
                sums.append(sum(increase[group] for group in groups))
    return min(sums)


@pytest.mark.parametrize("seed", range(20))
def test_the_cover_is_the_cheapest_of_all(seed: int) -> None:
    rng = random.Random(seed)
    increase = {(block,): rng.uniform(-0.1, 1) for block in range(7)}
    for _ in range(6):
        first, length = rng.randrange(5), rng.choice([2, 3])
        increase[tuple(range(first, min(7, first + length)))] = rng.uniform(-0.1, 2)
    for k in (1, 2, 4):
        cover = cheapest_cover(increase, k)
        assert list(cover) == sorted(set(cover))
        assert len(cover) == k
        inside = {group: each for group, each in increase.items() if set(group) <= set(cover)}
        assert least_sum(inside, k) == pytest.approx(least_sum(increase, k))


def test_what_costs_without_end_still_fills_a_cover() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        increase = {(block,): rng.choice([1.0, math.inf]) for block in range(6)}
        increase |= {(b, b + 1): rng.choice([1.0, math.inf]) for b in rng.sample(range(5), 3)}
        for k in (1, 3, 6):
            assert len(set(cheapest_cover(increase, k))) == k
    increase = {(0,): 1.0, (1,): math.inf, (3,): math.inf}
    assert set(cheapest_cover(increase, 2)) in ({0, 1}, {0, 3})
    assert cheapest_cover(increase, 3) == (0, 1, 3)


def groups(found: FastBlockSelect, *current: int) -> list[tuple[int, ...]]:
    space = Space(8, 3, tuple(range(8)))
    prior = dict(enumerate([0.5, 0.1, 0.9, 0.2, 0.3, 0.8, 0.4, 0.7]))
    return found._groups(space, prior, current)


def test_the_groups_are_the_cheapest_of_each_length_in_the_set_and_its_alternatives() -> None:
    # Beside 1, 2 and 3 the pool has the cheapest others: 4, 6 and 0, as many as go.
    everything = [(3, 4), (0, 1), (1, 2), (2, 3), (1, 2, 3), (2, 3, 4), (0, 1, 2)]
    assert groups(FastBlockSelect(groups=9), 1, 2, 3) == everything
    assert groups(FastBlockSelect(groups=2), 1, 2, 3) == [(3, 4), (0, 1), (1, 2, 3), (2, 3, 4)]
    assert groups(FastBlockSelect(alternatives=1), 1, 2, 3) == [
        (3, 4), (1, 2), (2, 3), (1, 2, 3), (2, 3, 4),
    ]  # fmt: skip


def test_no_set_is_scored_twice() -> None:
    for landscape in (pairwise(RISING, {}), *(rugged(12, seed) for seed in range(6))):
        search("fast-block-select", landscape, k=4)
        counts = Counter(s for sets, _ in landscape.calls[:-1] for s in sets if s)
        assert max(counts.values()) == 1


def test_a_cover_that_was_scored_as_a_group_has_the_loss_that_it_had() -> None:
    """Two and three together are the best, and known before they are the cover."""
    landscape = pairwise(RISING, {(2, 3): -0.65})
    found = search("fast-block-select", landscape, k=2)
    assert found.removed == (2, 3)
    assert found.score.loss == pytest.approx(landscape._loss((2, 3)))


def test_what_groups_cost_is_what_they_cost_beyond_the_whole_model() -> None:
    """Else one group would count the whole model's loss once and two blocks none."""
    landscape = pairwise(RISING, {(3, 4): -0.85})
    search("fast-block-select", landscape, k=3)
    assert (0, 3, 4) in landscape.asked


def test_a_cover_that_may_not_go_keeps_what_of_it_may() -> None:
    landscape = pairwise(RISING, {(3, 4): -0.85})
    search(
        "fast-block-select",
        landscape,
        k=3,
        refusal=lambda removed: "no" if removed == (0, 3, 4) else None,
    )
    assert (0, 3, 4) not in landscape.asked
    assert (0, 1, 3) in landscape.asked
