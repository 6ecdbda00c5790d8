"""What is asked for costs what a run that knows nothing computes for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import depthprune as dp
from depthprune.evaluator import Memo, Racing
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.objectives import parse_objective
from evaluator.items import calibration_of, random_item, random_text


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


def _mixed(items: int, texts: int) -> dp.Calibration:
    rng = np.random.default_rng(3)
    return calibration_of(
        [random_item(rng, longest=40) for _ in range(items)],
        [random_text(rng) for _ in range(texts)],
    )


def test_windows_that_fill_a_race_s_calls_are_not_paid_for_again(model: dp.Model) -> None:
    evaluator = dp.Evaluator(model, _mixed(60, 1), racing=Racing(delta=0.3, tolerance=0.02))
    dp.search("greedy", evaluator, k=3)
    cost = evaluator.cost
    assert cost.asked_block_tokens == cost.block_tokens > 0
    assert cost.evaluations < 6 + 5 + 4


def test_what_a_memo_knows_is_asked_for_all_the_same(model: dp.Model, tmp_path: Path) -> None:
    calibration = _mixed(60, 1)
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        costs = []
        for _ in range(2):
            evaluator = dp.Evaluator(
                model, calibration, memo=memo, racing=Racing(delta=0.3, tolerance=0.02)
            )
            dp.search("greedy", evaluator, k=3)
            costs.append(evaluator.cost)
    first, again = costs
    assert again.block_tokens == 0
    assert again.asked_block_tokens == first.asked_block_tokens == first.block_tokens


@pytest.mark.parametrize("objective", ["nll", "option-ce", "nll:0.5+option-ce:0.5"])
def test_a_rehearsal_counts_items_as_they_are_laid_out(model: dp.Model, objective: str) -> None:
    calibration = _mixed(32, 0) if objective == "option-ce" else _mixed(32, 4)
    evaluator = dp.Evaluator(model, calibration, objective, racing=None)
    rehearsal = Rehearsal.of(model, calibration, parse_objective(objective))
    for scorer in (evaluator, rehearsal):
        dp.search("one-shot", scorer, k=2)
    spent, planned = evaluator.cost, rehearsal.cost
    assert planned.evaluations == spent.evaluations
    # Only rows that are copies, at most one of eight in a shape, are not foreseen.
    assert spent.block_tokens * 7 / 8 <= planned.block_tokens <= spent.block_tokens
    assert planned.asked_block_tokens == planned.block_tokens
