"""Local search: the best swap, sweep by sweep."""

from __future__ import annotations

import itertools

import pytest

from depthprune.searches import Budget, search
from landscapes import Landscape, rugged


def swapped(removed: tuple[int, ...], blocks: int) -> list[tuple[int, ...]]:
    outside = set(range(blocks)) - set(removed)
    return [tuple(sorted({*removed, b} - {a})) for a, b in itertools.product(removed, outside)]


@pytest.mark.parametrize("seed", range(4))
def test_each_sweep_goes_to_the_best_swap_and_so_many_are_made_as_were_asked_for(seed: int) -> None:
    landscape = rugged(12, seed)
    current = search("one-shot", landscape, k=4).removed
    for sweeps in range(1, 8):
        current = min([current, *swapped(current, 12)], key=landscape._loss)
        assert search(f"local-search:sweeps={sweeps}", rugged(12, seed), k=4).removed == current
    assert search("local-search", rugged(12, seed), k=4).removed == current


def test_no_sweep_asks_for_what_an_earlier_one_did_but_the_best_of_it() -> None:
    landscape = rugged(14, 5)
    search("local-search:start=random", landscape, k=5)
    sweeps = [sets[1:] for sets, _ in landscape.calls[:-1]]
    assert len(sweeps) > 2
    seen: set[tuple[int, ...]] = set()
    for best, *new in sweeps:
        assert best in seen or not seen
        assert not seen & set(new)
        seen |= {best, *new}


def test_of_equal_sets_it_stays_where_it_is() -> None:
    def loss(removed: tuple[int, ...]) -> float:
        return 2.0 if len(removed) != 1 or removed[0] in (6, 7) else 3.0

    assert search("local-search", Landscape(8, loss), k=2).removed == (6, 7)


def test_from_a_random_set_one_evaluation_is_enough_to_have_one() -> None:
    found = search("local-search:start=random", rugged(12, 1), k=4, budget=Budget(evaluations=1))
    assert (len(found.removed), found.cost.evaluations) == (4, 1)
