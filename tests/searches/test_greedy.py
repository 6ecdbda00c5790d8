"""Greedy removes the cheapest block, again and again, seeing what it has done."""

from __future__ import annotations

import pytest

from depthprune.searches import search
from landscapes import additive, table

_DAMAGE = [0.9, 0.2, 0.7, 0.1, 0.4, 0.3]


@pytest.mark.parametrize(("k", "best"), [(1, (3,)), (2, (1, 3)), (3, (1, 3, 5)), (4, (1, 3, 4, 5))])
def test_where_removals_add_up_it_finds_the_optimum(k: int, best: tuple[int, ...]) -> None:
    assert search("greedy", additive(_DAMAGE), k=k).removed == best


@pytest.mark.parametrize(("k", "count"), [(4, 122), (5, 150), (6, 177), (7, 203), (8, 228)])
def test_it_evaluates_as_often_as_the_paper_says(k: int, count: int) -> None:
    landscape = additive([float(i % 7) for i in range(32)])
    result = search("greedy", landscape, k=k)
    assert result.cost.evaluations == len(landscape.asked) == count


def test_ties_go_to_the_lower_number() -> None:
    assert search("greedy", additive([1.0] * 6), k=3).removed == (0, 1, 2)


def test_it_sees_what_a_removal_does_to_the_others() -> None:
    # Blocks 0 and 1 do the same work: either can go, and not both.
    landscape = table(3, {(0,): 1.0, (1,): 1.1, (2,): 1.2, (0, 2): 1.5})
    assert search("greedy", landscape, k=2).removed == (0, 2)


def test_it_never_takes_a_step_back() -> None:
    # Removing 0 is the best start and leads nowhere; the best pair does without it.
    landscape = table(4, {(0,): 1.0, (1,): 2.0, (2,): 2.0, (0, 3): 5.0, (1, 2): 1.5})
    result = search("greedy", landscape, k=2)
    assert result.removed == (0, 3)
    assert result.score.loss > landscape.score([(1, 2)])[0].loss


def test_its_path_is_nested_and_ends_at_the_result() -> None:
    result = search("greedy", additive(_DAMAGE), k=4)
    assert result.path == ((3,), (1, 3), (1, 3, 5), (1, 3, 4, 5))


def test_it_does_not_ask_for_protected_blocks() -> None:
    landscape = additive(_DAMAGE)
    assert search("greedy", landscape, k=2, protect=(3, 0)).removed == (1, 5)
    assert not [removed for removed in landscape.asked if {0, 3} & set(removed)]


def test_a_set_whose_loss_is_not_finite_is_gone_round() -> None:
    landscape = table(
        4, {(0,): 1.0, (0, 1): float("nan"), (0, 2): float("inf"), (0, 3): 50.0}, otherwise=2.0
    )
    result = search("greedy", landscape, k=2)
    assert result.removed == (0, 3)
    assert result.not_finite == ((0, 1), (0, 2))
