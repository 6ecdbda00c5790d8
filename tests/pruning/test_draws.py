"""The noise of the draw: the same work on further draws of one calibration."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest

import depthprune as dp
from depthprune.calibration import parse_calibration
from depthprune.errors import UsageError
from depthprune.manifest import BlockScore
from depthprune.pruning.draws import (
    blocks_over_draws,
    check_draws,
    scores_over_draws,
    search_over_draws,
)
from depthprune.pruning.held_out import block_scores


def _rows(*losses: float) -> list[BlockScore]:
    return [
        BlockScore(block=i, loss=3 + x, stderr=0.1, increase=x, increase_stderr=0.1)
        for i, x in enumerate(losses)
    ]


def test_a_block_is_told_with_its_spread_and_how_often_it_is_among_the_lowest() -> None:
    found = blocks_over_draws([_rows(0.1, 0.2, 0.9), _rows(0.3, 0.2, 0.8), _rows(0.1, 0.4, 0.7)], 1)
    assert [each.lowest for each in found] == [2, 1, 0]
    assert found[0].increases == (0.1, 0.3, 0.1)
    assert found[0].mean == pytest.approx(1 / 6)
    assert found[0].spread == pytest.approx(statistics.stdev([0.1, 0.3, 0.1]))


def test_a_block_without_which_the_loss_is_infinite_has_no_spread() -> None:
    found = blocks_over_draws([_rows(0.1, math.inf), _rows(0.2, math.inf)], 1)
    assert found[1].mean == math.inf
    assert math.isnan(found[1].spread)
    assert found[0].spread == pytest.approx(statistics.stdev([0.1, 0.2]))


def test_of_blocks_that_tie_the_lower_number_counts() -> None:
    found = blocks_over_draws([_rows(0.2, 0.2, 0.2)] * 2, 2)
    assert [each.lowest for each in found] == [2, 2, 0]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


def test_each_draw_is_scored_as_it_would_be_alone(model: dp.Model) -> None:
    spec = "stdlib-prose,windows=3,length=32,seed={}"
    first = dp.calibrate(spec.format(5), model)
    found = scores_over_draws(first, 3, lambda drawn: dp.Evaluator(model, drawn))
    for seed, rows in zip((5, 6, 7), found, strict=True):
        alone = dp.Evaluator(model, dp.calibrate(spec.format(seed), model))
        assert rows == block_scores(alone, range(6))


def test_a_search_on_further_draws_is_compared_with_the_first(model: dp.Model) -> None:
    calibration = dp.calibrate("stdlib-prose,windows=3,length=32", model)
    records = search_over_draws(
        (1, 2),
        calibration,
        3,
        lambda drawn: dp.Evaluator(model, drawn),
        lambda evaluator: dp.search("one-shot", evaluator, k=2),
    )
    assert [record.repetition for record in records] == [1, 2]
    for record in records:
        evaluator = dp.Evaluator(model, calibration.redraw(record.repetition))
        own, first = evaluator.score([tuple(record.removed), (1, 2)])
        assert (record.loss, record.loss_of_first) == (own.loss, first.loss)
        shared = len({1, 2} & set(record.removed))
        assert record.jaccard == shared / (4 - shared)


@pytest.mark.parametrize("keys", ["order=first", "windows=all"])
def test_further_draws_of_what_leaves_nothing_to_chance_are_refused(keys: str) -> None:
    fixed = f"text:a.txt,{keys}"
    with pytest.raises(UsageError, match=f"every draw of text:a.txt,{keys} is the same"):
        check_draws(parse_calibration(fixed), 2)
    check_draws(parse_calibration(fixed), 1)
    check_draws(parse_calibration([fixed, "text:b.txt"]), 2)
    check_draws(parse_calibration(f"{fixed},documents=9"), 2)


@pytest.mark.parametrize("draws", [0, 1_001, 100_000_000])
def test_more_draws_than_could_mean_anything_are_refused(draws: int) -> None:
    with pytest.raises(UsageError, match="--draws: expected from 1 to 1,000, got"):
        check_draws(parse_calibration("stdlib-prose"), draws)
