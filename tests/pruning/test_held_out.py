"""Reported losses are of held-out windows, their differences paired window by window."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import depthprune as dp
from depthprune.calibration import Part
from depthprune.evaluator import Evaluator
from depthprune.evaluator.score import Weighting, score_of
from depthprune.objectives import NLL
from depthprune.pruning.held_out import (
    HeldOutScorer,
    SizeRule,
    block_scores,
    estimate,
    path_points,
)
from landscapes import table

_TEXT = "".join(
    f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(300)
)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32")


@pytest.fixture(scope="module")
def calibration(model: dp.Model, tmp_path_factory: pytest.TempPathFactory) -> dp.Calibration:
    file = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text(_TEXT, encoding="utf-8")
    line = f"text:{file},length=24"
    return dp.calibrate([f"{line},windows=6,weight=3", f"{line},windows=4,seed=1"], model)


@pytest.fixture(scope="module")
def held_out_scorer(model: dp.Model, calibration: dp.Calibration) -> HeldOutScorer:
    return HeldOutScorer(model, calibration, NLL())


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _score(losses: list[float], removed: tuple[int, ...] = ()) -> dp.Score:
    windows = len(losses)
    weighting = Weighting(np.zeros(windows, dtype=np.int64), (1.0,), np.full(windows, 10))
    return score_of(removed, np.asarray(losses), weighting)


def test_an_increase_is_as_certain_as_the_paired_differences_and_not_as_the_losses() -> None:
    dense, pruned = _score([1.0, 2.0, 3.0, 4.0]), _score([1.5, 2.6, 3.4, 4.5], (1,))
    grown, stderr = dp.increase(pruned, dense)
    assert grown == pytest.approx(0.5)
    assert stderr == pytest.approx(_stderr(np.asarray([0.5, 0.6, 0.4, 0.5])))
    assert pruned.stderr > 10 * stderr


def test_the_increase_of_a_loss_that_is_not_finite_is_infinite() -> None:
    grown, stderr = dp.increase(_score([1.0, math.nan], (1,)), _score([1.0, 2.0]))
    assert grown == math.inf
    assert math.isnan(stderr)


def test_held_out_losses_are_of_windows_that_no_draw_contains(
    model: dp.Model, calibration: dp.Calibration, held_out_scorer: HeldOutScorer
) -> None:
    for part, record in zip(calibration.parts, held_out_scorer.held_out((1, 4)), strict=True):
        (held,) = dp.Calibration((part,)).held_out()
        dense, pruned = Evaluator(model, held, "nll", plain=True).score([(), (1, 4)])
        paired = pruned.window_losses - dense.window_losses
        assert record.calibration == part.spec.line()
        assert record.dense.loss == pytest.approx(float(dense.window_losses.mean()))
        assert record.pruned.loss == pytest.approx(float(pruned.window_losses.mean()))
        assert record.pruned.stderr == pytest.approx(_stderr(pruned.window_losses))
        assert record.increase == pytest.approx(float(paired.mean()))
        assert record.increase_stderr == pytest.approx(_stderr(paired))


def test_the_mixture_s_held_out_loss_weighs_the_sources_by_share(
    held_out_scorer: HeldOutScorer,
) -> None:
    (loss, stderr), (dense, _) = held_out_scorer.mixed([(1, 4), ()])
    first, second = held_out_scorer.held_out((1, 4))
    assert loss == pytest.approx(0.75 * first.pruned.loss + 0.25 * second.pruned.loss)
    assert dense == pytest.approx(0.75 * first.dense.loss + 0.25 * second.dense.loss)
    assert stderr == pytest.approx(
        math.hypot(0.75 * first.pruned.stderr, 0.25 * second.pruned.stderr)
    )


def test_the_held_out_loss_of_several_objectives_is_a_share_of_the_dense_model_s(
    model: dp.Model, calibration: dp.Calibration, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Line {i}:", "options": [" a", " b"], "answer": i % 2} for i in range(40)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    items = dp.calibrate(f"choices:{file},windows=6", model)
    (text, _), (item,) = calibration.parts, items.parts
    both = dp.Calibration((replace(text, share=0.6), replace(item, share=0.4)))
    held_out_scorer = HeldOutScorer(model, both, "nll+option-ce")
    found = held_out_scorer.mixed([(), (1, 4)])
    assert found is not None
    (dense, _), (loss, _) = found
    first, second = held_out_scorer.held_out((1, 4))
    assert (first.objective, second.objective) == ("nll", "option-ce")
    assert dense == pytest.approx(1.0)
    shares = [each.pruned.loss / each.dense.loss for each in (first, second)]
    assert loss == pytest.approx(0.6 * shares[0] + 0.4 * shares[1])


def test_where_the_dense_model_loses_nothing_there_is_no_share_of_it(
    model: dp.Model, calibration: dp.Calibration, tmp_path: Path
) -> None:
    # The right option is the wrong one and more, so that what is summed is never less likely.
    rows = [{"prompt": f"Line {i}:", "options": [" a" * 40, " a"], "answer": 1} for i in range(40)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (text, _), (item,) = (
        calibration.parts,
        dp.calibrate(f"choices:{file},windows=6", model).parts,
    )
    both = dp.Calibration((replace(text, share=0.6), replace(item, share=0.4)))
    held_out_scorer = HeldOutScorer(model, both, "nll+accuracy")
    assert held_out_scorer.held_out((1,))[1].dense.loss == 0.0
    assert held_out_scorer.mixed([(), (1,)]) is None
    points = path_points([(1,)], table(4, {(): 2.0, (1,): 2.5}), held_out_scorer)
    assert [(p.loss, p.held_out, p.held_out_stderr) for p in points] == [
        (2.0, None, None),
        (2.5, None, None),
    ]
    with pytest.raises(dp.UsageError, match="--max-increase: the dense model loses nothing"):
        SizeRule(held_out_scorer.mixed, 0.1)


def test_of_a_margin_below_nothing_there_is_no_share_either(
    model: dp.Model, calibration: dp.Calibration, tmp_path: Path
) -> None:
    """Half of it would be a smaller share, and is a worse margin."""
    rows = [{"prompt": f"Line {i}:", "options": [" a", " b"], "answer": 0} for i in range(40)]
    file = tmp_path / "items.jsonl"

    def items(answer: int) -> Part:
        text = "".join(json.dumps(row | {"answer": answer}) + "\n" for row in rows)
        file.write_text(text, encoding="utf-8")
        return dp.calibrate(f"choices:{file},windows=6", model).parts[0]

    found = []
    for answer in (0, 1):
        both = dp.Calibration(
            (replace(calibration.parts[0], share=0.6), replace(items(answer), share=0.4))
        )
        scorer = HeldOutScorer(model, both, "nll+margin")
        found.append((scorer.held_out((1,))[1].dense.loss > 0, scorer.mixed([(1,)]) is not None))
    assert sorted(found) == [(False, False), (True, True)]


def test_block_scores_are_of_each_block_alone_against_the_dense_model(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    evaluator = Evaluator(model, calibration, "nll")
    rows = block_scores(evaluator, [5, 2])
    dense, *alone = evaluator.score([(), (5,), (2,)])
    for block, row, score in zip((5, 2), rows, alone, strict=True):
        assert (row.block, row.loss, row.stderr) == (block, score.loss, score.stderr)
        assert (row.increase, row.increase_stderr) == dp.increase(score, dense)


class _Ruler:
    """A judge that knows the held-out loss of each size."""

    def __init__(self, *losses: float) -> None:
        self.losses = losses

    def mixed(self, sets: Sequence[tuple[int, ...]]) -> list[tuple[float, float]]:
        return [(self.losses[len(removed)], 0.01 * len(removed)) for removed in sets]


def _largest(losses: list[float], max_increase: float, patience: int = 2) -> tuple[int, int]:
    """The size chosen along a path of growing sets, and how many sizes were tried."""
    rule = SizeRule(_Ruler(*losses).mixed, max_increase, patience=patience)
    for size in range(1, len(losses)):
        if rule(tuple(range(size))):
            break
    return len(rule.chosen), size


@pytest.mark.parametrize(
    ("losses", "size", "tried"),
    [
        ([2.0, 2.05, 2.1, 2.2, 2.3, 2.4], 2, 4),
        ([2.0, 2.1, 2.1, 2.1], 3, 3),
        ([2.0, 2.5, 2.6, 2.0], 0, 2),
        ([2.0, 1.9, 1.8, 1.7], 3, 3),
        ([2.0, 2.05, 2.2, 2.08, 2.2, 2.2, 2.0], 3, 5),
        ([2.0, math.inf, 2.05, math.nan, math.inf, 2.0], 2, 4),
    ],
)
def test_the_largest_size_within_the_limit_is_chosen(
    losses: list[float], size: int, tried: int
) -> None:
    assert _largest(losses, 0.05 + 1e-9) == (size, tried)


def test_the_limit_itself_is_allowed() -> None:
    assert _largest([2.0, 3.0, 3.5, 3.5], 0.5) == (1, 3)


def test_patience_is_how_many_sizes_above_the_limit_end_the_search() -> None:
    losses = [2.0, 2.0, 3.0, 2.0, 3.0, 3.0, 2.0]
    assert [_largest(losses, 0.1, patience) for patience in (1, 2, 3)] == [(1, 2), (3, 5), (6, 6)]


def test_a_negative_loss_may_grow_by_a_share_of_its_size() -> None:
    rule = SizeRule(_Ruler(-2.0).mixed, 0.1)
    assert (rule.dense, rule.limit) == (-2.0, pytest.approx(-1.8))


def test_a_path_begins_with_the_dense_model_and_has_both_losses_at_each_size() -> None:
    losses = {(): 2.0, (3,): 2.5, (1, 3): 3.5}
    points = path_points([(3,), (1, 3)], table(4, losses), _Ruler(2.1, 2.7, 3.9))  # type: ignore[arg-type]
    assert [(p.k, p.removed, p.loss, p.held_out, p.held_out_stderr) for p in points] == [
        (0, [], 2.0, 2.1, 0.0),
        (1, [3], 2.5, 2.7, 0.01),
        (2, [1, 3], 3.5, 3.9, 0.02),
    ]


def test_an_estimate_has_a_perplexity_where_the_objective_has_one() -> None:
    score = _score([1.0, 2.0])
    assert estimate(score, NLL()).perplexity == pytest.approx(math.exp(1.5))
    assert estimate(score, SimpleNamespace(has_perplexity=False)).perplexity is None  # type: ignore[arg-type]


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert estimate(_score([1e4, 1e4]), NLL()).perplexity == math.inf


def test_where_the_worst_domain_counts_the_worst_source_is_judged(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    lines = [
        f"{part.spec.short()},length=24,windows=6,reduction=worst-domain,seed={seed},domain={name}"
        for part, (seed, name) in zip(calibration.parts, ((0, "a"), (1, "b")), strict=True)
    ]
    held_out_scorer = HeldOutScorer(model, dp.calibrate(lines, model), NLL())
    records = held_out_scorer.held_out((2,))
    worst = max((record.pruned for record in records), key=lambda pruned: pruned.loss)
    assert held_out_scorer.mixed([(2,)]) == [(worst.loss, worst.stderr)]
