"""Annealing: worse swaps are accepted by a chance that falls as it cools."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from depthprune.searches import annealing, search
from landscapes import Landscape, rugged


def test_it_cools_geometrically_from_a_share_of_the_spread_to_a_hundredth_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temperatures: list[float] = []

    def accepted(new: float, old: float, temperature: float, rng: random.Random) -> bool:
        temperatures.append(temperature)
        return False

    monkeypatch.setattr(annealing, "_accepted", accepted)
    landscape = rugged(12, 1)
    search("annealing:steps=40,heat=0.3", landscape, k=4)
    singles = [landscape._loss((block,)) for block in range(12)]
    expected = 0.3 * np.std(singles) * 0.01 ** (np.arange(40) / 40)
    assert temperatures == pytest.approx(expected.tolist())


def test_a_worse_one_is_accepted_by_how_much_worse_it_is_in_the_heat() -> None:
    rng = random.Random(0)
    for above, heat in ((0.5, 0.5), (0.2, 0.5), (0.5, 0.1)):
        times = sum(annealing._accepted(1 + above, 1.0, heat, rng) for _ in range(20_000))
        assert times / 20_000 == pytest.approx(math.exp(-above / heat), abs=0.015)


def test_what_is_no_worse_is_always_accepted() -> None:
    rng = random.Random(0)
    assert annealing._accepted(1.0, 1.0, 0.0, rng)
    assert annealing._accepted(0.9, 1.0, 0.0, rng)


@pytest.mark.parametrize(
    ("new", "heat"), [(1.0 + 1e-12, 0.0), (math.inf, 1e300), (math.nan, 1e300)]
)
def test_what_is_worse_in_the_cold_or_not_finite_in_any_heat_never_is(
    new: float, heat: float
) -> None:
    assert not annealing._accepted(new, 1.0, heat, random.Random(0))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_it_leaves_a_start_whose_loss_is_not_finite(bad: float) -> None:
    def loss(removed: tuple[int, ...]) -> float:
        return bad if removed == (0, 1) else float(sum(removed))

    assert search("annealing", Landscape(8, loss), k=2).removed == (0, 2)


def test_however_hot_it_is_the_best_set_that_was_met_is_the_result() -> None:
    landscape = rugged(12, 4)
    found = search("annealing:heat=1000", landscape, k=4)
    met = [removed for removed in landscape.asked if len(removed) == 4]
    assert found.removed == min(met, key=landscape._loss)


def test_of_equal_sets_the_lower_numbers_are_the_result() -> None:
    def loss(removed: tuple[int, ...]) -> float:
        return 2.0 if len(removed) != 1 or removed[0] in (6, 7) else 3.0

    assert search("annealing", Landscape(8, loss), k=2).removed == (0, 1)
