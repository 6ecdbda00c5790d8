"""The evaluator's losses are those of plain forwards through models with the blocks taken out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import depthprune as dp
from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import forward as forward_module
from depthprune.evaluator import memory as memory_module
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.projection import ProjectedRows
from depthprune.objectives import tiles as tiles_module
from depthprune.searches import search
from tiny import save_text, save_tiny


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("text") / "river.txt")


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def calibration(model: dp.Model, text: Path) -> dp.Calibration:
    return dp.calibrate(
        [f"text:{text},windows=5,length=40", f"text:{text},windows=3,length=24,weight=3,seed=1"],
        model,
    )


def _plain_losses(folder: Path, calibration: dp.Calibration, removed: tuple[int, ...]) -> Any:
    """The slow reference: a model whose list of blocks is shorter, one window at a time."""
    module: Any = dp.load(folder, dtype="float32", device="cpu").module
    kept = [b for i, b in enumerate(module.model.layers) if i not in removed]
    module.model.layers = nn.ModuleList(kept)
    module.config.num_hidden_layers = len(kept)
    losses = []
    with torch.inference_mode():
        for window in calibration.windows:
            ids = torch.from_numpy(window.tokens)[None]
            logits = module(input_ids=ids, use_cache=False).logits[0, :-1]
            losses.append(functional.cross_entropy(logits, ids[0, 1:]).item())
    first, second = losses[:5], losses[5:]
    return losses, 0.25 * np.mean(first) + 0.75 * np.mean(second)


@pytest.mark.parametrize("removed", [(), (0,), (5,), (2, 3), (0, 1, 4, 5)])
def test_a_score_is_that_of_plain_forwards(
    tiny_llama: Path, model: dp.Model, calibration: dp.Calibration, removed: tuple[int, ...]
) -> None:
    score = dp.Evaluator(model, calibration).score([removed])[0]
    losses, mean = _plain_losses(tiny_llama, calibration, removed)
    np.testing.assert_allclose(score.window_losses, losses, rtol=1e-5)
    assert score.loss == pytest.approx(mean, rel=1e-5)
    assert score.windows == 8
    assert score.tokens == 5 * 39 + 3 * 23


def test_greedy_takes_the_path_of_plain_forwards(
    tiny_llama: Path, model: dp.Model, calibration: dp.Calibration
) -> None:
    path: list[tuple[int, ...]] = []
    removed: tuple[int, ...] = ()
    for _ in range(3):
        sets = [tuple(sorted((*removed, b))) for b in range(6) if b not in removed]
        removed = min(sets, key=lambda s: _plain_losses(tiny_llama, calibration, s)[1])
        path.append(removed)
    result = search("greedy", dp.Evaluator(model, calibration), k=3)
    assert result.path == tuple(path)


def test_block_tokens_are_the_distinct_prefixes_and_no_set_is_paid_twice(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    evaluator = dp.Evaluator(model, calibration)
    singles = [(b,) for b in range(6)]
    evaluator.score([(), *singles])
    tokens = calibration.tokens
    assert evaluator.cost.block_tokens == 21 * tokens
    assert evaluator.cost.plain_block_tokens == (6 + 6 * 5) * tokens
    assert evaluator.cost.head_tokens == 7 * (5 * 39 + 3 * 23)
    assert evaluator.cost.evaluations == 6
    before = evaluator.cost
    evaluator.score([*singles, ()])
    assert dataclasses.replace(evaluator.cost, seconds=before.seconds) == before


def test_little_memory_changes_the_cost_and_not_the_losses(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    sets = [s for n in (1, 2) for s in itertools.combinations(range(6), n)]
    roomy = dp.Evaluator(model, calibration)
    tight = dp.Evaluator(model, calibration, memory=2 * 40 * 32 * 4)
    for a, b in zip(roomy.score(sets), tight.score(sets), strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, rtol=1e-5)
    assert tight.cost.block_tokens > roomy.cost.block_tokens


def test_many_states_in_one_call_change_no_loss(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = list(itertools.combinations(range(6), 2))
    one_by_one = dp.Evaluator(model, calibration).score(sets)
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 1 << 20})
    together = dp.Evaluator(model, calibration).score(sets)
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 1})
    apart = dp.Evaluator(model, calibration).score(sets)
    for a, b, c in zip(one_by_one, together, apart, strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, rtol=1e-5)
        np.testing.assert_allclose(a.window_losses, c.window_losses, rtol=1e-5)


def test_the_head_never_holds_all_logits(
    model: dp.Model, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = dp.calibrate(f"text:{text},windows=2,length=300", model)
    shapes: list[tuple[int, ...]] = []
    plain = ProjectedRows.product

    def product(rows: ProjectedRows, first: int, last: int) -> torch.Tensor:
        found = plain(rows, first, last)
        shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(tiles_module, "COLUMNS", 100)
    monkeypatch.setattr(ProjectedRows, "product", product)
    evaluator = dp.Evaluator(model, calibration)
    evaluator._runner.losses.chunk = 200
    evaluator.score([(1,)])
    assert max(rows for rows, _ in shapes) <= 200
    assert max(columns for _, columns in shapes) <= 100
    vocabulary = model.module.lm_head.out_features  # type: ignore[union-attr]
    assert sum(rows * columns for rows, columns in shapes) == 2 * 299 * vocabulary


def test_windows_of_different_lengths_are_never_padded(model: dp.Model, text: Path) -> None:
    mixed = dp.calibrate(
        [f"text:{text},windows=2,length=31", f"text:{text},windows=2,length=64,seed=5"], model
    )
    both = dp.Evaluator(model, mixed).score([(2,)])[0].window_losses
    apart = [
        dp.Evaluator(model, dp.calibrate(part.spec, model)).score([(2,)])[0].window_losses
        for part in mixed.parts
    ]
    np.testing.assert_allclose(both, np.concatenate(apart), rtol=1e-5)


def test_a_loss_that_is_not_finite_ranks_last(tmp_path: Path, text: Path) -> None:
    folder = save_tiny(tmp_path / "broken")
    model = dp.load(folder, dtype="float32", device="cpu")
    with torch.no_grad():
        model.module.model.layers[3].mlp.down_proj.weight.fill_(math.nan)  # type: ignore
    evaluator = dp.Evaluator(model, dp.calibrate(f"text:{text},windows=2,length=32", model))
    broken, healed = evaluator.score([(1,), (3,)])
    assert broken.loss == math.inf
    assert not broken.finite
    assert healed.finite


@pytest.mark.parametrize("removed", [(6,), (-1,), (1, 1)])
def test_a_set_that_does_not_fit_the_model_is_refused(
    model: dp.Model, calibration: dp.Calibration, removed: tuple[int, ...]
) -> None:
    with pytest.raises(UsageError):
        dp.Evaluator(model, calibration).score([removed])


def test_none_of_the_best_cannot_be_asked_for(model: dp.Model, calibration: dp.Calibration) -> None:
    with pytest.raises(UsageError, match="keep: expected how many of the best are wanted, got 0"):
        dp.Evaluator(model, calibration).compare([(1,), (2,)], 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_answers_nan_for_one_window_ranks_that_set_last(
    model: dp.Model, calibration: dp.Calibration, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = type(model.anatomy).call

    def breaking(self: Any, block: int, states: Any, inputs: Any) -> Any:
        answer = call(self, block, states, inputs)
        # Of the sets below, only the one without block 4 runs block 5 on block 3's output.
        return answer * bad if block == 4 and states.shape[1] == 24 else answer

    monkeypatch.setattr(type(model.anatomy), "call", breaking)
    evaluator = dp.Evaluator(model, calibration)
    with_block, without = evaluator.score([(1,), (4,)])
    assert with_block.loss == math.inf
    assert without.finite
    assert np.isfinite(with_block.window_losses[:5]).all()
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        with_block.require_finite()


def test_a_budget_below_two_states_is_refused(model: dp.Model, calibration: dp.Calibration) -> None:
    with pytest.raises(UsageError, match=r"expected at least 10240 bytes .* got 10239"):
        dp.Evaluator(model, calibration, memory=2 * 40 * 32 * 4 - 1)


class _Cramped:
    """A device that fails with more than `most` tokens in one call, as one without memory does."""

    def __init__(self, most: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        call = Anatomy.call
        self.failures = 0

        def calling(anatomy: Any, block: int, states: Any, inputs: Any) -> Any:
            if states.shape[0] * states.shape[1] > most:
                self.failures += 1
                raise error
            return call(anatomy, block, states, inputs)

        monkeypatch.setattr(Anatomy, "call", calling)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_when_memory_runs_out_the_work_is_halved_and_goes_on(
    model: dp.Model, text: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = dp.calibrate(f"text:{text},windows=8,length=40", model)
    sets = list(itertools.combinations(range(6), 2))
    whole = dp.Evaluator(model, calibration).score(sets)
    evaluator = dp.Evaluator(model, calibration)
    assert evaluator._runner.calls.rows == 8
    cramped = _Cramped(100, monkeypatch, error)
    for a, b in zip(evaluator.score(sets), whole, strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, rtol=1e-5)
    assert cramped.failures > 1
    assert evaluator._runner.calls.rows == 2
    tried = dp.Evaluator(dp.load(model.source, dtype="float32", device="cpu"), calibration)
    assert tried._runner.calls.rows == 2


def test_what_did_not_fit_is_let_go_before_memory_is_given_back(
    model: dp.Model, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = dp.calibrate(f"text:{text},windows=8,length=40", model)
    made: list[weakref.ref[torch.Tensor]] = []
    left: list[torch.Tensor | None] = []
    call = Anatomy.call

    def calling(anatomy: Any, block: int, states: Any, inputs: Any) -> Any:
        if states.shape[0] * states.shape[1] <= 100:
            return call(anatomy, block, states, inputs)
        half = states + 1
        made.append(weakref.ref(half))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Anatomy, "call", calling)
    monkeypatch.setattr(forward_module, "give_back_memory", lambda: left.append(made[-1]()))
    evaluator = dp.Evaluator(model, calibration)
    evaluator.score([(1,), (2,)])
    assert left
    assert left == [None] * len(left)


def test_where_memory_runs_out_before_a_race_it_goes_on_too(
    model: dp.Model, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rounding does is measured first of all, in calls as full as those of the race."""
    calibration = dp.calibrate(f"text:{text},windows=8,length=40", model)
    sets = [(block,) for block in range(6)]
    whole = dp.Evaluator(model, calibration).score(sets)
    evaluator = dp.Evaluator(model, calibration, racing=dp.Racing(delta=1e-9, tolerance=0.0))
    assert evaluator._runner.calls.rows == 8
    _Cramped(100, monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    found = evaluator.compare(sets, 1)
    assert evaluator._runner.calls.rows == 2
    assert min(found, key=lambda s: s.loss).removed == min(whole, key=lambda s: s.loss).removed


def test_a_window_that_does_not_fit_alone_is_an_error_that_says_so(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Cramped(30, monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(EvaluationError, match="one window of 40 tokens does not fit"):
        dp.Evaluator(model, calibration).score([(1,)])


def test_another_failure_is_not_taken_for_a_lack_of_memory(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Cramped(30, monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        dp.Evaluator(model, calibration).score([(1,)])


def test_attention_by_products_changes_no_loss_and_is_gone_afterwards(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setattr("depthprune.evaluator.runner.products_are_faster", lambda *_: True)
    fast = dp.Evaluator(model, calibration).score([(), (2,)])
    plain = dp.Evaluator(model, calibration, plain=True).score([(), (2,)])
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, rtol=1e-5)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
