"""Searches evaluate as often as the paper's table says, at N = 32 and k from 4 to 8."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from depthprune.errors import UsageError
from depthprune.searches import SEARCHES, search
from landscapes import additive, rugged

SIZES = [4, 5, 6, 7, 8]
RANKINGS = ["block-influence", "relative-magnitude", "taylor"]

GREEDY = {4: 122, 5: 150, 6: 177, 7: 203, 8: 228}
BEAM = {4: 482, 5: 622, 6: 757, 7: 887, 8: 1012}
EVOPRESS = {4: 93, 5: 113, 6: 130, 7: 145, 8: 160}
"""As the table has them."""

EXACT: dict[str, Callable[[int], float]] = {
    "one-shot": lambda k: 32,
    "greedy": GREEDY.__getitem__,
    "random": lambda k: 200,
    "window": lambda k: 33 - k,
    **dict.fromkeys(["last-k", "angular", *RANKINGS], lambda k: 1),
}
AT_MOST: dict[str, Callable[[int], float]] = {
    "beam": BEAM.__getitem__,
    "genetic": lambda k: 32 + 176,
    "fast-block-select": lambda k: 32 + 5 * k * 10,
    # The table rounds 5/6 k(N - k).
    "evolution": lambda k: EVOPRESS[k] + 0.5,
    "annealing": lambda k: 32 + 1 + 200,
}


def test_every_search_is_counted() -> None:
    counted = {*EXACT, *AT_MOST, "cbo", "bayesian", "local-search", "exhaustive"}
    assert counted == set(SEARCHES.names())


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("name", list(EXACT))
def test_it_evaluates_exactly_as_often(name: str, k: int) -> None:
    landscape = rugged(32, k, windows=64)
    assert search(name, landscape, k=k).cost.evaluations == EXACT[name](k)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("name", list(AT_MOST))
def test_it_evaluates_at_most_as_often(name: str, k: int) -> None:
    landscape = rugged(32, k, windows=64)
    assert 32 < search(name, landscape, k=k).cost.evaluations <= AT_MOST[name](k)


@pytest.mark.parametrize("k", SIZES)
def test_cbo_scores_all_single_blocks_and_pairs_and_ten_sets(k: int) -> None:
    # An easy model of the loss: the solver is not what is tested here.
    landscape = additive([((7 * i) % 32) / 32 for i in range(32)])
    assert search("cbo", landscape, k=k).cost.evaluations == 528 + 10


@pytest.mark.parametrize("k", SIZES)
def test_bayesian_has_200_trials_besides_the_single_blocks(k: int) -> None:
    # How long the surrogate thinks does not change how often it is asked; at k = 8 it thinks.
    text = "bayesian" if k == 8 else "bayesian:starts=199"
    assert search(text, rugged(32, 1), k=k).cost.evaluations == 32 + 200


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("sweeps", [1, 3])
def test_a_sweep_of_local_search_is_at_most_every_swap(k: int, sweeps: int) -> None:
    found = search(f"local-search:sweeps={sweeps}", rugged(32, 4), k=k)
    assert 32 < found.cost.evaluations <= 33 + sweeps * k * (32 - k)


@pytest.mark.parametrize("k", SIZES)
def test_exhaustive_evaluates_every_set_or_says_how_many_there_are(k: int) -> None:
    sets = math.comb(32, k)
    with pytest.raises(UsageError, match=f"{sets:,} sets of {k} of 32 blocks"):
        search("exhaustive", rugged(32, 1), k=k)
    assert search("exhaustive", rugged(k + 4, 1), k=k).cost.evaluations == math.comb(k + 4, k)


@pytest.mark.parametrize("windows", [1, 3, 16, 64, 200])
def test_evolution_spends_no_more_with_other_numbers_of_windows(windows: int) -> None:
    found = search("evolution", rugged(32, 4, windows=windows), k=4)
    assert found.cost.evaluations <= 5 / 6 * 4 * 28


@pytest.mark.parametrize("name", ["one-shot", "greedy", "cbo"])
def test_the_dense_model_is_counted_apart(name: str) -> None:
    landscape = additive([((7 * i) % 12) / 12 for i in range(12)])
    found = search(name, landscape, k=3)
    # The last call is the result's own score, which is the caller's.
    asked = {s for sets, _ in landscape.calls[:-1] for s in sets}
    assert () in asked
    assert found.cost.evaluations == len(asked - {()})
