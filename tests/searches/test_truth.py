"""On a real model: exhaustive is brute force by plain forwards, and no search is below it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import depthprune as dp
from depthprune.searches import SEARCHES
from tiny import save_tiny

K = 4
QUICK = {"bayesian": "bayesian:trials=40"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "twelve", blocks=12)


@pytest.fixture(scope="module")
def calibration(folder: Path) -> dp.Calibration:
    return dp.calibrate("stdlib-prose,windows=8,length=16,seed=0", dp.load(folder))


@pytest.fixture(scope="module")
def truth(folder: Path, calibration: dp.Calibration) -> dict[tuple[int, ...], float]:
    """The loss of every set of four blocks, by forwards of a model whose list is shorter."""
    module: Any = dp.load(folder, dtype="float32", device="cpu").module
    layers = list(module.model.layers)
    module.config.num_hidden_layers = len(layers) - K
    ids = torch.from_numpy(np.stack([window.tokens for window in calibration.windows]))
    losses = {}
    with torch.inference_mode():
        for removed in itertools.combinations(range(12), K):
            module.model.layers = nn.ModuleList(
                [block for i, block in enumerate(layers) if i not in removed]
            )
            logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
            losses[removed] = functional.cross_entropy(
                logits.flatten(0, 1), ids[:, 1:].flatten()
            ).item()
    return losses


@pytest.fixture(scope="module")
def model(folder: Path) -> dp.Model:
    return dp.load(folder, dtype="float32", device="cpu")


def test_exhaustive_is_brute_force_by_plain_forwards(
    model: dp.Model, calibration: dp.Calibration, truth: dict[tuple[int, ...], float]
) -> None:
    evaluator = dp.Evaluator(model, calibration, racing=None)
    result = dp.search("exhaustive", evaluator, k=K)
    assert result.removed == min(truth, key=lambda s: truth[s])
    assert result.cost.evaluations == len(truth) == 495
    found = [score.loss for score in evaluator.score(truth)]
    np.testing.assert_allclose(found, list(truth.values()), rtol=1e-5)


@pytest.mark.parametrize("racing", [None, dp.Racing()], ids=["exact", "raced"])
@pytest.mark.parametrize("name", SEARCHES.names())
def test_what_a_search_returns_has_the_loss_of_plain_forwards(
    name: str,
    racing: dp.Racing | None,
    model: dp.Model,
    calibration: dp.Calibration,
    truth: dict[tuple[int, ...], float],
) -> None:
    evaluator = dp.Evaluator(model, calibration, racing=racing)
    result = dp.search(QUICK.get(name, name), evaluator, k=K)
    assert result.score.loss == pytest.approx(truth[result.removed], rel=1e-5)
    assert result.score.loss >= min(truth.values()) * (1 - 1e-5)


def test_evolution_scores_most_sets_on_few_windows(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    evaluator = dp.Evaluator(model, calibration)
    result = dp.search("evolution", evaluator, k=K)
    assert result.cost.evaluations <= 5 / 6 * 4 * 8
    assert result.cost.evaluations == round(8 * result.cost.evaluations) / 8
    assert len(evaluator._asked) > 2 * result.cost.evaluations


def test_a_second_search_pays_for_no_set_of_the_first(
    model: dp.Model, calibration: dp.Calibration, tmp_path: Path
) -> None:
    with dp.Memo.open(tmp_path / "memo.sqlite") as memo:
        first = dp.Evaluator(model, calibration, racing=None, memo=memo)
        dp.search("cbo", first, k=K)
        second = dp.Evaluator(model, calibration, racing=None, memo=memo)
        result = dp.search("one-shot", second, k=K)
    # One-shot's single blocks and the dense model are recalled on all windows; none is computed.
    assert (result.cost.evaluations, result.cost.block_tokens) == (12, 0)
    assert result.cost.recalled == 13 * len(calibration.windows)


def test_budgets_hold_on_a_model(model: dp.Model, calibration: dp.Calibration) -> None:
    full = dp.search("greedy", dp.Evaluator(model, calibration, racing=None), k=K)
    half = dp.search("greedy", dp.Evaluator(model, calibration, racing=None), k=K, budget="36")
    assert (half.stopped, half.cost.evaluations) == (True, 36)
    assert half.path == full.path[:3]
    tokens = dp.search(
        "annealing",
        dp.Evaluator(model, calibration, racing=None),
        k=K,
        budget=dp.Budget(block_tokens=2e4),
    )
    assert tokens.stopped
    assert tokens.cost.block_tokens < 2e4 + calibration.tokens * 12
