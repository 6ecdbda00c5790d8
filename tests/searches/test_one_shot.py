"""One-shot removes the k blocks whose removal alone costs least."""

from __future__ import annotations

import pytest

from depthprune.searches import search
from landscapes import Landscape, additive, table

_DAMAGE = [0.9, 0.2, 0.7, 0.1, 0.4, 0.3]


@pytest.mark.parametrize(("k", "best"), [(1, (3,)), (2, (1, 3)), (3, (1, 3, 5)), (4, (1, 3, 4, 5))])
def test_where_removals_add_up_it_finds_the_optimum(k: int, best: tuple[int, ...]) -> None:
    assert search("one-shot", additive(_DAMAGE), k=k).removed == best


@pytest.mark.parametrize("k", [1, 4, 8, 31])
def test_it_evaluates_each_block_once_and_nothing_else(k: int) -> None:
    landscape = additive([float(i) for i in range(32)])
    result = search("one-shot", landscape, k=k)
    assert result.cost.evaluations == 32
    assert landscape.asked[:32] == [(block,) for block in range(32)]
    assert set(landscape.asked[32:]) <= {result.removed}


def test_ties_go_to_the_lower_number() -> None:
    assert search("one-shot", additive([1.0] * 6), k=3).removed == (0, 1, 2)


def test_it_takes_removals_as_if_they_added_up() -> None:
    # Blocks 0 and 1 do the same work: either can go, and not both.
    landscape = table(3, {(0,): 1.0, (1,): 1.1, (2,): 1.2, (0, 2): 1.5})
    result = search("one-shot", landscape, k=2)
    assert result.removed == (0, 1)
    assert result.score.loss == 9.0


def test_its_path_is_nested_and_ends_at_the_result() -> None:
    result = search("one-shot", additive(_DAMAGE), k=4)
    assert result.path == ((3,), (1, 3), (1, 3, 5), (1, 3, 4, 5))


def test_it_does_not_ask_for_protected_blocks() -> None:
    landscape = additive(_DAMAGE)
    assert search("one-shot", landscape, k=2, protect=(3, 0)).removed == (1, 5)
    assert not [removed for removed in landscape.asked if {0, 3} & set(removed)]


def test_blocks_whose_loss_is_not_finite_rank_last() -> None:
    damage = [0.9, float("nan"), 0.7, float("inf"), 0.4, 0.3]
    landscape = Landscape(6, lambda removed: sum(damage[b] for b in removed))
    result = search("one-shot", landscape, k=4)
    assert result.removed == (0, 2, 4, 5)
    assert result.not_finite == ((1,), (3,))
