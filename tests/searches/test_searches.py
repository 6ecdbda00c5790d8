"""What holds of every search: where it finds the optimum, what it never asks, what it may spend."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import sys
import threading
from collections import Counter

import numpy as np
import pytest

from depthprune.errors import EvaluationError, UsageError
from depthprune.searches import (
    SEARCHES,
    Result,
    search,
)
from depthprune.searches.cbo import minimisers
from landscapes import Estimates, Landscape, additive, deceptive, optimum, pairwise, rugged

ALL = SEARCHES.names()
GUIDED = ["one-shot", "greedy", "beam", "genetic", "bayesian", "cbo", "fast-block-select"]
GUIDED += ["evolution", "local-search", "annealing", "exhaustive"]
RANKINGS = ["block-influence", "relative-magnitude", "taylor"]
CONTROLS = ["random", "window", "last-k", "angular"]
CHANCE = ["genetic", "bayesian", "evolution", "annealing", "random"]
QUICK = {"bayesian": "bayesian:trials=60", "exhaustive": "exhaustive:limit=50000"}
"""What is asked for in place of a name where its defaults take seconds."""

DAMAGE = [0.31, 0.05, 0.62, 0.17, 0.88, 0.11, 0.45, 0.23, 0.74, 0.38, 0.52, 0.93]


def run(name: str, landscape: Landscape, k: int = 4, **options: object) -> Result:
    return search(QUICK.get(name, name), landscape, k=k, **options)  # type: ignore[arg-type]


def spaced(windows: int = 64) -> Landscape:
    return pairwise(DAMAGE, {}, windows=windows)


def test_the_tests_know_every_search() -> None:
    assert sorted(ALL) == sorted([*GUIDED, *RANKINGS, *CONTROLS])


@pytest.mark.parametrize("k", [1, 2, 4, 11])
@pytest.mark.parametrize("name", [*GUIDED, *RANKINGS])
def test_where_removals_add_up_it_finds_the_optimum(name: str, k: int) -> None:
    landscape = spaced()
    assert run(name, landscape, k).removed == optimum(landscape, k)[0]


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("name", ALL)
def test_where_the_cheapest_blocks_are_the_last_in_a_row_every_search_finds_them(
    name: str, k: int
) -> None:
    """Controls look at few sets, so that the best one must be among those."""
    landscape = pairwise(sorted(DAMAGE, reverse=True), {}, windows=64)
    found = search({**QUICK, "random": "random:samples=500"}.get(name, name), landscape, k=k)
    assert found.removed == optimum(landscape, k)[0] == tuple(range(12 - k, 12))


@pytest.mark.parametrize("name", [*RANKINGS, "angular"])
def test_one_pass_rankings_see_what_they_measure_and_no_loss(name: str) -> None:
    """Why they stand apart: no loss is asked for until the set is chosen."""
    values = np.array(DAMAGE).max() - np.array(DAMAGE)
    if name == "angular":
        values = np.tile(np.arange(12.0)[:, None], 13)
    landscape = Landscape(12, additive(DAMAGE)._loss, values=values)
    found = run(name, landscape)
    assert landscape.asked == [found.removed]
    assert found.removed == ((0, 1, 2, 3) if name == "angular" else (2, 4, 8, 11))
    assert found.score.loss > optimum(landscape, 4)[1]


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ["genetic", "bayesian", "evolution", "annealing"])
def test_it_finds_it_by_whatever_chance(name: str, seed: int) -> None:
    assert run(name, spaced(), seed=seed).removed == (1, 3, 5, 7)


@pytest.mark.parametrize("name", ["beam", "cbo", "local-search", "exhaustive"])
def test_where_pairs_matter_it_finds_what_one_shot_and_greedy_do_not(name: str) -> None:
    landscape = deceptive()
    assert run(name, landscape, k=2).removed == optimum(landscape, 2)[0] == (1, 2)
    assert run("one-shot", deceptive(), k=2).removed == (0, 1)
    assert 0 in run("greedy", deceptive(), k=2).removed


@pytest.mark.parametrize("k", [3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_where_only_pairs_matter_cbo_is_exact(seed: int, k: int) -> None:
    landscape = rugged(12, seed)
    best, loss = optimum(landscape, k)
    found = run("cbo", landscape, k)
    assert (found.removed, found.score.loss) == (best, pytest.approx(loss))
    assert run("one-shot", rugged(12, seed), k).score.loss > loss


@pytest.mark.parametrize("seed", range(3))
def test_exhaustive_finds_the_best_of_all(seed: int) -> None:
    landscape = rugged(10, seed)
    found = run("exhaustive", landscape, k=3)
    assert (found.removed, found.score.loss) == (
        optimum(landscape, 3)[0],
        pytest.approx(optimum(landscape, 3)[1]),
    )
    assert found.cost.evaluations == 120


@pytest.mark.parametrize("name", ALL)
def test_no_search_is_below_the_optimum_or_says_what_is_not_so(name: str) -> None:
    landscape = rugged(12, 5, windows=64)
    found = run(name, landscape)
    assert found.score.loss == pytest.approx(landscape._loss(found.removed))
    assert found.score.loss >= optimum(landscape, 4)[1] - 1e-12


@pytest.mark.parametrize("name", ALL)
def test_it_asks_for_no_protected_block_no_wrong_size_and_no_set_twice_in_one_ask(
    name: str,
) -> None:
    landscape = rugged(12, 3, windows=64)
    found = run(name, landscape, 4, protect=(0, 7, 11))
    assert len(found.removed) == 4
    for removed in landscape.asked:
        assert not {0, 7, 11} & set(removed)
        assert list(removed) == sorted(set(removed))
        assert name in ("greedy", "beam") or len(removed) in (1, 2, 3, 4)
    for sets, _ in landscape.calls:
        assert max(Counter(s for s in sets if s).values(), default=1) == 1


@pytest.mark.parametrize("name", ALL)
def test_what_was_asked_for_before_stands_only_beside_what_is_new(name: str) -> None:
    landscape = rugged(12, 3, windows=64)
    run(name, landscape, 4)
    seen: dict[tuple[int, ...], int] = {}
    for sets, windows in landscape.calls[:-1]:
        count = windows or landscape.windows
        new = [s for s in sets if s and seen.get(s, 0) < count]
        assert new or name in ("genetic", "cbo", "evolution")
        seen |= dict.fromkeys(sets, count)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("one-shot", "greedy", *CONTROLS)])
def test_a_search_of_k_1_finds_the_cheapest_block(name: str) -> None:
    assert run(name, spaced(), 1).removed == (1,)


@pytest.mark.parametrize("name", ALL)
def test_where_nothing_is_left_to_choose_it_takes_what_there_is(name: str) -> None:
    assert run(name, spaced(), 4, protect=range(4, 12)).removed == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ALL)
def test_a_seed_repeats_the_run_and_its_trace(name: str) -> None:
    runs = [run(name, rugged(12, 1, windows=64, noise=0.1), seed=3) for _ in range(2)]
    assert runs[0].removed == runs[1].removed
    assert runs[0].trace == runs[1].trace


def test_annealing_without_heat_ends_no_worse_than_it_began() -> None:
    found = search("annealing:heat=0,steps=50", rugged(12, 1), k=4)
    assert found.score.loss <= search("one-shot", rugged(12, 1), k=4).score.loss


def test_the_chance_of_a_mutation_decides_which_children_there_are() -> None:
    asked = []
    for chance in (0, 1):
        landscape = rugged(12, 1)
        search(f"genetic:mutation={chance}", landscape, k=4)
        asked.append(landscape.asked)
    assert asked[0] != asked[1]


@pytest.mark.parametrize("name", CHANCE)
def test_another_seed_asks_for_other_sets(name: str) -> None:
    asked = []
    for seed in (0, 1):
        landscape = rugged(12, 1, windows=64)
        run(name, landscape, seed=seed)
        asked.append(landscape.asked)
    assert asked[0] != asked[1]


@pytest.mark.parametrize("name", ALL)
def test_among_equals_it_ends_and_takes_one(name: str) -> None:
    found = run(name, Landscape(10, lambda removed: 2.0, windows=64), 3)
    assert (len(found.removed), found.score.loss) == (3, 2.0)


TIES_TO_THE_LOWEST = ["one-shot", "greedy", "beam", "fast-block-select", "local-search"]


@pytest.mark.parametrize("name", [*TIES_TO_THE_LOWEST, "exhaustive", "window", *RANKINGS])
def test_ties_go_to_the_lower_numbers(name: str) -> None:
    assert run(name, Landscape(10, lambda removed: 2.0), 3).removed == (0, 1, 2)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("last-k", "angular", "window")])
def test_it_goes_round_blocks_whose_loss_is_not_finite(name: str) -> None:
    bad = {1: math.inf, 5: math.nan}

    def loss(removed: tuple[int, ...]) -> float:
        return sum(bad.get(b, DAMAGE[b]) for b in removed)

    landscape = Landscape(12, loss, windows=64)
    found = run(name, landscape)
    assert math.isfinite(found.score.loss)
    assert not {1, 5} & set(found.removed)


@pytest.mark.parametrize("name", ["greedy", "beam", "bayesian", "cbo"])
def test_it_finds_the_best_beside_pairs_whose_loss_is_not_finite(name: str) -> None:
    landscape = pairwise(DAMAGE, {(1, 5): math.inf, (3, 7): math.inf}, windows=64)
    assert run(name, landscape).removed == optimum(landscape, 4)[0]


@pytest.mark.parametrize("name", ["genetic", "evolution", "local-search", "annealing"])
def test_it_goes_round_a_pair_whose_loss_is_not_finite(name: str) -> None:
    found = run(name, pairwise(DAMAGE, {(1, 5): math.inf}, windows=64))
    assert math.isfinite(found.score.loss)


def test_a_step_after_which_nothing_is_finite_is_an_error_that_names_the_set() -> None:
    landscape = Landscape(6, lambda removed: math.inf if len(removed) > 1 else 1.0)
    with pytest.raises(EvaluationError, match="without blocks 0,1 is NaN or infinite"):
        search("greedy", landscape, k=2)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("last-k", "angular", *RANKINGS)])
def test_where_nothing_is_finite_it_says_so(name: str) -> None:
    with pytest.raises(EvaluationError, match=r"NaN or\s+infinite"):
        run(name, Landscape(8, lambda removed: math.inf if removed else 1.0), 3)


@pytest.mark.parametrize("name", ALL)
def test_of_the_only_block_that_may_go_a_loss_that_is_not_finite_is_told_as_such(name: str) -> None:
    landscape = Landscape(2, lambda removed: math.inf if removed else 1.0)
    with pytest.raises(EvaluationError, match=r"NaN or\s+infinite"):
        run(name, landscape, 1, protect=[0])


@pytest.mark.parametrize(
    "name", ["one-shot", "greedy", "beam", "cbo", "fast-block-select", "local-search", "exhaustive"]
)
def test_a_race_that_tells_the_best_and_no_more_changes_nothing(name: str) -> None:
    exact, raced = rugged(12, 2), rugged(12, 2)
    raced.__class__ = Estimates
    assert run(name, exact).removed == run(name, raced).removed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["genetic", "random"])
def test_a_race_does_not_make_a_search_return_less_than_it_saw(name: str, seed: int) -> None:
    landscape = rugged(12, 2)
    landscape.__class__ = Estimates
    found = run(name, landscape, seed=seed)
    seen = [s for s in landscape.asked if len(s) == 4]
    assert found.removed == min(seen, key=landscape._loss)


@pytest.mark.parametrize("seed", [4, 6, 7])
@pytest.mark.parametrize("name", ["annealing", "fast-block-select", "greedy", "local-search"])
def test_no_set_of_its_size_that_a_search_scored_is_better_than_what_it_returns(
    name: str, seed: int
) -> None:
    landscape = rugged(9, seed)
    found = run(name, landscape, seed=seed)
    seen = [s for s in landscape.asked if len(s) == 4]
    assert found.removed == min(seen, key=landscape._loss)
    assert found.score.loss == found.trace[-1].loss


@pytest.mark.parametrize("name", ["window", "angular"])
def test_a_window_that_protection_leaves_no_room_for_is_refused(name: str) -> None:
    landscape = additive(DAMAGE)
    with pytest.raises(UsageError, match=f"search {name}: expected 4 blocks in a row that may go"):
        run(name, landscape, 4, protect=(3, 7, 11))
    assert landscape.calls == []


def test_too_many_sets_for_exhaustive_are_refused_with_the_count_and_the_limit() -> None:
    landscape = additive([1.0] * 30)
    with pytest.raises(
        UsageError, match=r"593,775 sets of 6 of 30 blocks, and the limit is 20,000"
    ):
        search("exhaustive", landscape, k=6)
    assert landscape.calls == []


def test_a_model_that_cbo_cannot_solve_to_the_end_gives_its_best_so_far_each_time_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(0)
    linear = {block: rng.random() for block in range(40)}
    quadratic = {pair: rng.gauss(0, 0.3) for pair in itertools.combinations(range(40), 2)}
    monkeypatch.setattr("depthprune.searches.cbo._MOST_WORK", 0.3)
    first, second = (minimisers(linear, quadratic, 12, 3) for _ in range(2))
    assert first == second
    assert [len(removed) for removed in first] == [12]
    assert caplog.messages == [caplog.messages[0]] * 2
    assert "may have better sets than those found" in caplog.messages[0]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to itself ends a process there")
def test_an_interrupt_while_cbo_solves_its_model_ends_it_as_one() -> None:
    """The solver took Ctrl-C for its own, and the search was said to have failed."""
    rng = random.Random(0)
    linear = {block: rng.random() for block in range(60)}
    quadratic = {pair: rng.gauss(0, 0.3) for pair in itertools.combinations(range(60), 2)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            minimisers(linear, quadratic, 20, 1)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
