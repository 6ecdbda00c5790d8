"""A rehearsal counts what the search then spends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from items import calibration_of, random_item, random_text

import depthprune as dp
from depthprune.evaluator import timing
from depthprune.evaluator.rehearsal import (
    RACED,
    CostEstimate,
    Rehearsal,
    TokenCosts,
    measure_speed,
    plan_of,
)
from depthprune.objectives import parse_objective
from depthprune.searches import Ask, Method
from mended import loaded


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


def _rehearsed(calibration, compares: bool = False) -> Rehearsal:
    scored = sum(int(w.scored.sum()) for w in calibration.windows)
    return Rehearsal(6, calibration.tokens, scored, len(calibration.windows), compares=compares)


@pytest.mark.parametrize("objective", ["nll", "kl", "cosine", "acceptance"])
def test_the_head_is_counted_as_often_as_it_is_run(model: dp.Model, objective: str) -> None:
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(2)])
    evaluator = dp.Evaluator(model, calibration, objective)
    evaluator.score([(1,), (2, 3)])
    rehearsal = Rehearsal.of(model, calibration, parse_objective(objective))
    rehearsal.score([(1,), (2, 3)])
    assert rehearsal.cost.head_tokens == evaluator.cost.head_tokens


@pytest.mark.parametrize("objective", ["nll", "kl"])
@pytest.mark.parametrize(("name", "k"), [("one-shot", 3), ("greedy", 1)])
def test_the_counts_are_those_of_the_exact_search(
    model: dp.Model, objective: str, name: str, k: int
) -> None:
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(5)])
    rehearsal = _rehearsed(calibration, compares=objective == "kl")
    planned = dp.search(name, rehearsal, k=k).cost
    evaluator = dp.Evaluator(model, calibration, objective, racing=None)
    spent = dp.search(name, evaluator, k=k).cost
    for count in ("evaluations", "block_tokens", "head_tokens", "plain_block_tokens"):
        assert getattr(planned, count) == getattr(spent, count), count


@pytest.mark.parametrize("objective", ["option-ce", "nll"])
def test_plain_forwards_of_items_are_counted_with_the_prompt_of_each_option(
    model: dp.Model, objective: str
) -> None:
    calibration = calibration_of([random_item(np.random.default_rng(i)) for i in range(5)])
    rehearsal = Rehearsal.of(model, calibration, parse_objective(objective))
    evaluator = dp.Evaluator(model, calibration, objective, racing=None)
    for each in (rehearsal, evaluator):
        dp.search("one-shot", each, k=2)
    assert rehearsal.cost.plain_block_tokens == evaluator.cost.plain_block_tokens


@pytest.mark.parametrize("name", ["block-influence", "relative-magnitude", "taylor"])
def test_a_measurement_is_counted_as_what_it_costs(model: dp.Model, name: str) -> None:
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(5)])
    rehearsal, evaluator = _rehearsed(calibration), dp.Evaluator(model, calibration, racing=None)
    for each in (rehearsal, evaluator):
        each.measure(name)
        each.measure(name)
        each.forget_asked()
        each.measure(name)
    for count in ("block_tokens", "plain_block_tokens", "asked_block_tokens"):
        assert getattr(rehearsal.cost, count) == getattr(evaluator.cost, count), count


def test_a_set_pays_for_further_windows_alone(model: dp.Model) -> None:
    """An evolution scores its parents on a few windows, then on more, then on all."""
    windows = [random_text(np.random.default_rng(0), length=300) for _ in range(8)]
    calibration = calibration_of(windows)
    rehearsal, evaluator = _rehearsed(calibration), dp.Evaluator(model, calibration, racing=None)
    for each in (rehearsal, evaluator):
        each.score([(1,), (2,), (3,)], windows=1)
        each.score([(2,), (4,)], windows=4)
        each.score([(2,)])
    for count in ("evaluations", "block_tokens", "head_tokens", "plain_block_tokens"):
        assert getattr(rehearsal.cost, count) == getattr(evaluator.cost, count), count
    assert rehearsal.cost.evaluations == 1 + 4 / 8 + 2 / 8


def test_windows_that_fill_a_call_are_paid_for_with_those_that_were_asked_for(
    model: dp.Model,
) -> None:
    generator = np.random.default_rng(0)
    windows = [random_text(generator, length=128) for _ in range(16)]
    calibration = calibration_of(windows)
    rehearsal = Rehearsal.of(model, calibration, parse_objective("nll"))
    evaluator = dp.Evaluator(model, calibration, racing=None)
    for each in (rehearsal, evaluator):
        each.score([(1,), (2,), (3,)], windows=1)
        each.score([(2,), (4,)], windows=6)
        each.score([(2,)])
    for count in ("evaluations", "block_tokens", "asked_block_tokens", "head_tokens"):
        assert getattr(rehearsal.cost, count) == getattr(evaluator.cost, count), count


def test_greedy_asks_as_often_as_it_will(model: dp.Model) -> None:
    """Which sets share how much depends on the losses; how many there are does not."""
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(5)])
    rehearsal = _rehearsed(calibration)
    dp.search("greedy", rehearsal, k=3)
    evaluator = dp.Evaluator(model, calibration, racing=None)
    dp.search("greedy", evaluator, k=3)
    assert rehearsal.cost.evaluations == evaluator.cost.evaluations == 6 + 5 + 4
    assert rehearsal.cost.block_tokens == pytest.approx(evaluator.cost.block_tokens, rel=0.4)


def test_a_plan_adds_up_time_and_memory(model: dp.Model) -> None:
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(5)])
    rehearsal = _rehearsed(calibration)
    dp.search("one-shot", rehearsal, k=2)
    plan = plan_of(rehearsal, model, calibration.windows, TokenCosts(1e-3, 1e-2))
    assert plan.seconds == pytest.approx(plan.block_tokens * 1e-3 + plan.head_tokens * 1e-2)
    assert plan.weight_bytes == 0
    # Five sets, and the dense model that the sixth goes with, have states of 24 tokens before the
    # last block and behind it; one is before the first.
    assert plan.state_bytes == (6 + 6 + 1) * 24 * 32 * 4


def test_speed_is_measured_on_this_machine(model: dp.Model) -> None:
    speed = measure_speed(model, [random_text(np.random.default_rng(i)) for i in range(3)])
    assert 0 < speed.block_token < 1
    assert 0 < speed.head_token < 1


def test_a_set_that_is_asked_for_again_is_paid_for_once_in_a_rehearsal_too() -> None:
    """Otherwise a budget would end the rehearsal where it does not end the search."""
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(5)])

    class Twice(Method):
        method = "twice"
        summary = "asks for the same sets twice"

        def plan(self, space, rng):
            sets = tuple((block,) for block in space.free)
            yield Ask(sets, keep=1)
            yield Ask(sets, keep=1)
            return sets[0]

    result = dp.search(Twice(), _rehearsed(calibration), k=1, budget="6")
    assert not result.stopped
    assert result.cost.evaluations == 6


def test_a_search_after_another_is_counted_as_if_alone_and_pays_for_what_is_new() -> None:
    rehearsal = Rehearsal(6, tokens=100, scored=90, windows=4)
    first = dp.search("one-shot", rehearsal, k=2).cost
    rehearsal.forget_asked()
    again = dp.search("one-shot", rehearsal, k=2).cost
    assert (again.evaluations, again.asked_block_tokens) == (6, first.block_tokens)
    assert again.block_tokens == 0


def test_speed_is_measured_in_calls_as_a_search_makes_them(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = [random_text(np.random.default_rng(i)) for i in range(40)]
    waited, shapes = [], set()
    call = type(model.anatomy).call

    def noting(self, block, state, inputs):
        shapes.add((block, tuple(state.shape)))
        return call(self, block, state, inputs)

    monkeypatch.setattr(type(model.anatomy), "call", noting)
    monkeypatch.setattr(timing, "synchronize", waited.append)
    measure_speed(model, windows)
    length = len(windows[0].tokens)
    assert shapes == {(block, (512 // length, length, 32)) for block in (0, 3, 5)}
    # Before and behind each run of three blocks and the head, those that warm up included.
    assert len(waited) == 2 * 6 * 4


@pytest.mark.parametrize(("windows", "share"), [(15, 1.0), (16, RACED), (64, RACED)])
def test_what_is_expected_of_a_race_is_the_share_that_was_measured(
    windows: int, share: float
) -> None:
    plan = CostEstimate(1.0, 1, 1, 1, 1, 0, seconds=100.0, windows=windows)
    assert plan.raced_seconds == pytest.approx(100.0 * share)


def test_the_share_that_was_measured_is_the_benchmark_s() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert f"{RACED} of the losses were looked at" in page


@pytest.mark.parametrize("model_type", ["gemma3n_text", "hy_v4", "electra"])
def test_heads_of_streams_and_of_other_widths_are_timed_and_share_chunks(model_type: str) -> None:
    """What a head is given per token need not be one vector as wide as what its map takes."""
    made = loaded(model_type)
    windows = [random_text(np.random.default_rng(seed)) for seed in range(4)]
    speed = measure_speed(made, windows)
    assert min(speed.block_token, speed.head_token) > 0
    together = dp.Evaluator(made, calibration_of(windows)).score([(1,)])[0]
    alone = [dp.Evaluator(made, calibration_of([each])).score([(1,)])[0].loss for each in windows]
    assert together.loss == pytest.approx(np.mean(alone), abs=1e-5)
