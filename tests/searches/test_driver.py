"""The driver checks what it is asked, keeps trace and path, and stops a search that misbehaves."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import Score
from depthprune.searches import (
    Ask,
    ChosenSize,
    Measure,
    Result,
    Space,
    make_space,
    search,
)
from landscapes import Landscape, additive, table

_DAMAGE = [0.9, 0.2, 0.7, 0.1, 0.4, 0.3]


class Scripted:
    """A search that follows a script."""

    name = "scripted"
    summary = "follows a script"
    grows = True

    def __init__(self, plan: Callable[[Space, random.Random], Any]) -> None:
        self.plan = plan


def _run(plan: Callable[[Space, random.Random], Any], k: int = 2, **options: Any) -> Result:
    return search(Scripted(plan), additive(_DAMAGE), k=k, **options)


@pytest.mark.parametrize("k", [-1, 0, 6, 7])
def test_k_outside_the_model_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match=rf"-k: expected 1 to 5 .*, got {k}"):
        make_space(6, k)


def test_whole_numbers_may_be_numpys_and_nothing_else() -> None:
    numbers = {"k": np.int64(2), "seed": np.int64(3), "protect": np.array([3])}
    plain = search("random:samples=3", additive(_DAMAGE), k=2, seed=3, protect=[3])
    found = search("random:samples=3", additive(_DAMAGE), **numbers)  # type: ignore[arg-type]
    assert (found.removed, found.seed, found.protect) == (plain.removed, 3, (3,))
    assert type(found.k) is type(found.seed) is int
    for wrong in ({"k": 2.0}, {"k": "2"}, {"k": 2, "seed": 1.5}, {"k": 2, "protect": "0,1"}):
        with pytest.raises(UsageError, match="expected a whole number, got"):
            search("greedy", additive(_DAMAGE), **wrong)  # type: ignore[arg-type]


def test_k_may_leave_one_block() -> None:
    assert make_space(6, 5).free == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("block", [-1, 6])
def test_protecting_a_block_that_does_not_exist_is_refused(block: int) -> None:
    with pytest.raises(UsageError, match=f"--protect: expected blocks from 0 to 5, got {block}"):
        make_space(6, 1, [0, block])


def test_protecting_too_many_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--protect: leaves 2 of 6 blocks .*, fewer than k = 3"):
        make_space(6, 3, [0, 1, 2, 3])


def test_protecting_all_but_k_leaves_no_choice() -> None:
    assert search("greedy", additive(_DAMAGE), k=2, protect=[1, 3, 4, 5]).removed == (0, 2)


def test_an_unknown_search_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match="unknown search 'gredy'; did you mean 'greedy'"):
        search("gredy", additive(_DAMAGE), k=2)


def test_nothing_is_scored_where_k_is_wrong() -> None:
    landscape = additive(_DAMAGE)
    with pytest.raises(UsageError):
        search("greedy", landscape, k=6)
    assert landscape.asked == []


@pytest.mark.parametrize("name", ["one-shot", "greedy"])
def test_a_result_says_all_that_it_takes_to_repeat_it(name: str) -> None:
    result = search(name, additive(_DAMAGE), k=2, seed=7, protect=(5, 0))
    assert (result.search, result.seed, result.k, result.protect) == (name, 7, 2, (0, 5))
    assert result.removed == result.score.removed == (1, 3)
    assert result.score.loss == pytest.approx(1.3)


@pytest.mark.parametrize("name", ["one-shot", "greedy"])
def test_the_trace_only_grows_in_cost_and_ends_within_the_result_s(name: str) -> None:
    result = search(name, additive(_DAMAGE), k=4)
    spent = [(point.cost.evaluations, point.cost.block_tokens) for point in result.trace]
    assert all(first < second for first, second in pairwise(spent))
    assert spent[-1] == (result.cost.evaluations, result.cost.block_tokens)


def test_the_trace_of_greedy_is_its_path_with_its_losses() -> None:
    result = search("greedy", additive(_DAMAGE), k=3)
    assert tuple(point.removed for point in result.trace) == result.path
    assert [point.loss for point in result.trace] == pytest.approx([1.1, 1.3, 1.6])


def test_the_trace_keeps_the_best_so_far() -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        for pair in ((1, 3), (0, 2), (1, 5)):
            yield Ask((pair,), keep=1)
        return (1, 3)

    assert [point.removed for point in _run(plan).trace] == [(1, 3)] * 3


def test_cost_is_of_this_search_alone() -> None:
    landscape = additive(_DAMAGE)
    landscape.score([(), (0,), (1,)])
    assert search("one-shot", landscape, k=1).cost.evaluations == 4


def test_the_dense_model_is_scored_with_the_first_candidates() -> None:
    calls: list[list[Any]] = []

    class Watched(Landscape):
        def score(
            self, removed: Iterable[Sequence[int]], *, windows: int | None = None
        ) -> list[Score]:
            calls.append(list(removed))
            return super().score(calls[-1])

    search("one-shot", Watched(3, lambda removed: 1.0), k=1)
    assert calls[0] == [(), (0,), (1,), (2,)]


@pytest.mark.parametrize("name", ["one-shot", "greedy"])
def test_no_finite_candidate_is_an_error_that_names_the_search(name: str) -> None:
    with pytest.raises(EvaluationError, match=f"{name}: the loss of all 6 candidates is NaN or"):
        search(name, table(6, {}, otherwise=math.nan), k=2)


def test_a_result_that_is_not_finite_is_an_error_that_names_it() -> None:
    landscape = table(3, {(0, 1): math.inf}, otherwise=1.0)
    with pytest.raises(EvaluationError, match="without blocks 0,1 is NaN or infinite"):
        search("one-shot", landscape, k=2)


def test_the_seed_is_the_search_s_own_chance() -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        removed = tuple(sorted(rng.sample(space.free, space.k)))
        yield Ask((removed,), keep=1)
        return removed

    draws = [_run(plan, seed=seed).removed for seed in range(10)]
    assert draws == [_run(plan, seed=seed).removed for seed in range(10)]
    assert len(set(draws)) > 3


@pytest.mark.parametrize(
    ("removed", "why"),
    [
        ((1,), "of another size"),
        ((1, 3, 5), "of another size"),
        ((), "empty"),
        ((3, 1), "not sorted"),
        ((1, 1), "twice the same"),
        ((0, 1), "protected"),
        ((1, 6), "no block"),
        ((-1, 1), "no block"),
        ([1, 3], "a list"),
        (("1", 3), "text"),
        ((True, 3), "a truth value"),
        (([1], 3), "unhashable"),
        (None, "nothing"),
    ],
)
def test_a_search_that_returns_what_it_must_not_is_stopped_by_name(removed: Any, why: str) -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        yield Ask(((1, 3),), keep=1)
        return removed

    with pytest.raises(EvaluationError, match=r"search 'scripted' gave .* of 2 blocks that may go"):
        _run(plan, protect=[0])


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Ask(((1,), (0,)), keep=1), "gave .0,., which is no sorted tuple of at most 2 blocks"),
        (Ask(((1, 3, 5),), keep=1), "gave .1, 3, 5., which is no sorted tuple of at most 2"),
        (Ask(((1,), (2,), (1,)), keep=1), "asked for one set twice"),
        (Ask((), keep=1), "asks for nothing"),
        (((1,),), "asks for nothing"),
        (None, "asks for nothing"),
        (Ask(((1,), (0, 1)), keep=2, windows=1), "gave .0, 1., which is no sorted tuple"),
        (ChosenSize((0,)), "gave .0,., which is no sorted tuple"),
    ],
)
def test_a_search_that_asks_what_it_must_not_is_stopped_by_name(event: Any, message: str) -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        yield event
        return (1, 3)

    with pytest.raises(EvaluationError, match=f"search 'scripted'.*{message}"):
        _run(plan, protect=[0])


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_search_that_raises_is_one_line_that_names_it(where: str) -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        if where == "before":
            raise ValueError("two\nlines")
        yield Ask(((1,),), keep=1)
        raise ValueError("two\nlines")

    with pytest.raises(EvaluationError) as caught:
        _run(plan)
    assert str(caught.value).startswith("search 'scripted' failed (ValueError: two); --debug")


def test_a_search_whose_plan_is_no_generator_is_one_line_that_names_it() -> None:
    with pytest.raises(EvaluationError, match=r"search 'scripted' failed \(Attrib"):
        _run(lambda space, rng: (1, 3))


def test_what_the_evaluator_raises_is_not_laid_to_the_search() -> None:
    class Broken(Landscape):
        def score(self, removed: Any, *, windows: int | None = None) -> list[Score]:
            raise MemoryError("no memory")

    with pytest.raises(MemoryError):
        search("one-shot", Broken(3, lambda removed: 1.0), k=1)


def test_the_dense_model_may_be_asked_for_and_is_no_candidate() -> None:
    told: list[float] = []

    def plan(space: Space, rng: random.Random) -> Any:
        scores = yield Ask(((), (1, 3)), keep=2)
        told.extend(score.loss for score in scores)
        return (1, 3)

    result = _run(plan)
    assert told == pytest.approx([1.0, 1.3])
    assert [point.removed for point in result.trace] == [(1, 3)]
    assert result.cost.evaluations == 1


def test_a_low_loss_on_few_windows_is_not_the_best_so_far() -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        yield Ask(((1, 3), (0, 2)), keep=1, windows=1)
        yield Ask(((0, 2),), keep=1, windows=2)
        yield Ask(((4, 5),), keep=1)
        return (4, 5)

    landscape = Landscape(6, additive(_DAMAGE)._loss, windows=4)
    result = search(Scripted(plan), landscape, k=2)
    assert [point.removed for point in result.trace] == [(1, 3), (0, 2), (4, 5)]
    assert [point.cost.evaluations for point in result.trace] == [0.5, 0.75, 1.75]


def test_a_measurement_is_the_evaluator_s() -> None:
    def plan(space: Space, rng: random.Random) -> Any:
        values = yield Measure("taylor")
        assert list(values) == pytest.approx([1 + d for d in _DAMAGE])
        return (1, 3)

    landscape = additive(_DAMAGE)
    assert search(Scripted(plan), landscape, k=2).trace == ()
    assert landscape.measured == ["taylor"]


@pytest.mark.parametrize("name", ["one-shot", "greedy"])
def test_growth_ends_where_it_is_enough(name: str) -> None:
    result = search(name, additive(_DAMAGE), k=5, enough=lambda removed: len(removed) == 2)
    assert result.removed == (1, 3)
    assert result.path == ((3,), (1, 3))
    assert result.k == 5


def test_greedy_spends_nothing_beyond_what_is_enough() -> None:
    result = search("greedy", additive(_DAMAGE), k=5, enough=lambda removed: len(removed) == 2)
    assert result.cost.evaluations == 6 + 5


def test_enough_is_asked_of_every_size_in_turn() -> None:
    seen: list[tuple[int, ...]] = []
    search("greedy", additive(_DAMAGE), k=3, enough=lambda removed: bool(seen.append(removed)))  # type: ignore[func-returns-value]
    assert seen == [(3,), (1, 3), (1, 3, 5)]


def test_the_function_and_the_package_share_a_name_and_both_work() -> None:
    import depthprune.searches.driver

    assert depthprune.search("one-shot", additive(_DAMAGE), k=1).removed == (3,)
    assert depthprune.searches.driver.SEARCHES.names()[:2] == ["one-shot", "greedy"]


@pytest.mark.parametrize("first", ["import depthprune.searches.driver", "import depthprune as dp"])
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = f"""
{first}
import depthprune as dp
dp.search
import depthprune.searches.driver
try:
    dp.search("gredy", None, k=1)
except dp.UsageError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("unknown search 'gredy'")
