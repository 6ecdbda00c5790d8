"""Measurements of the dense model are those of their definitions, by plain forwards with hooks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from items import calibration_of, random_item
from torch.nn import functional

import depthprune as dp
from depthprune.errors import UsageError
from depthprune.evaluator import importance
from depthprune.evaluator import memory as memory_module
from depthprune.evaluator import runner as runner_module
from depthprune.evaluator.importance import states, taylor
from depthprune.searches import search
from hostile import hostile_arithmetic
from tiny import save_tiny

TYPES = ["llama", "gemma2", "phi3", "qwen2"]


def _states(module: Any, blocks: Any, tokens: np.ndarray) -> list[torch.Tensor]:
    """The states before each block and behind the last, by hooks, shape (length, width) each."""
    found: list[torch.Tensor] = []

    def before(block: Any, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    def behind(block: Any, args: Any, output: Any) -> None:
        found.append(output if isinstance(output, torch.Tensor) else output[0])

    handles = [b.register_forward_pre_hook(before, with_kwargs=True) for b in blocks]
    handles.append(blocks[-1].register_forward_hook(behind))
    try:
        with torch.no_grad():
            module(input_ids=torch.from_numpy(tokens)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [state[0].double() for state in found]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "river.txt"
    words = ["the", "river", "rises", "in", "hills", "behind", "town", "where", "old", "road"]
    rng = np.random.default_rng(0)
    file.write_text(" ".join(rng.choice(words, 3000)), encoding="utf-8")
    return file


@pytest.fixture(scope="module", params=TYPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dp.Model:
    folder = save_tiny(tmp_path_factory.mktemp("tiny") / request.param, request.param)
    return dp.load(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def calibration(model: dp.Model, text: Path) -> dp.Calibration:
    """Two sources of unequal share, windows of unequal length."""
    return dp.calibrate(
        [f"text:{text},windows=5,length=40", f"text:{text},windows=3,length=24,weight=3,seed=1"],
        model,
    )


WEIGHTS = np.array([0.25 / 5] * 5 + [0.75 / 3] * 3)


def _mean(model: dp.Model, calibration: dp.Calibration, of: Any) -> Any:
    """The weighted mean over windows of what `of` says of a window's states."""
    blocks = model.anatomy.blocks.modules
    parts = [of(_states(model.module, blocks, w.tokens)) for w in calibration.windows]
    return np.tensordot(WEIGHTS, np.stack(parts), axes=1)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)


def test_block_influence_is_one_minus_the_mean_cosine(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    def of(states: list[torch.Tensor]) -> list[float]:
        return [1 - _cosine(a[:-1], b[:-1]).mean().item() for a, b in pairwise(states)]

    found = dp.Evaluator(model, calibration).measure("block-influence")
    np.testing.assert_allclose(found, _mean(model, calibration, of), rtol=1e-5, atol=1e-7)
    assert (found > 1e-4).all()


def test_relative_magnitude_is_what_a_block_adds_against_what_it_gives(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    def of(states: list[torch.Tensor]) -> list[float]:
        return [
            ((b - a).norm(dim=-1) / b.norm(dim=-1))[:-1].mean().item() for a, b in pairwise(states)
        ]

    found = dp.Evaluator(model, calibration).measure("relative-magnitude")
    np.testing.assert_allclose(found, _mean(model, calibration, of), rtol=1e-5)


def test_angular_is_the_mean_angle_between_states_n_blocks_apart(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    def of(states: list[torch.Tensor]) -> np.ndarray:
        angles = np.full((6, 7), np.nan)
        for first in range(6):
            angles[first, 0] = 0.0
            for count in range(1, 7 - first):
                cosine = _cosine(states[first][:-1], states[first + count][:-1])
                angles[first, count] = (cosine.arccos() / torch.pi).mean().item()
        return angles

    found = dp.Evaluator(model, calibration).measure("angular")
    np.testing.assert_allclose(found, _mean(model, calibration, of), rtol=1e-5, atol=1e-6)
    assert found.shape == (6, 7)
    assert np.isnan(found[5, 2])


class _Gates:
    """Gates on what blocks add, put into the model's own forward."""

    def __init__(self, model: dp.Model) -> None:
        self.values = torch.ones(model.blocks, requires_grad=True)
        self._model = model

    def loss(self, tokens: np.ndarray, targets: Any = None) -> torch.Tensor:
        """NLL of some of the tokens (all by default), by one forward of the whole model."""
        handles = []
        for index, block in enumerate(self._model.anatomy.blocks.modules):
            handles.append(block.register_forward_pre_hook(self._keep, with_kwargs=True))
            handles.append(block.register_forward_hook(self._gate(index)))
        try:
            ids = torch.from_numpy(tokens)[None]
            logits = self._model.module(input_ids=ids, use_cache=False).logits[0, :-1]
        finally:
            for handle in handles:
                handle.remove()
        losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return losses.mean() if targets is None else losses[targets].mean()

    def _keep(self, block: Any, args: Any, kwargs: Any) -> None:
        self._before = args[0] if args else kwargs["hidden_states"]

    def _gate(self, index: int) -> Any:
        def gate(block: Any, args: Any, output: Any) -> Any:
            behind = output if isinstance(output, torch.Tensor) else output[0]
            gated = self._before + self.values[index] * (behind - self._before)
            return gated if isinstance(output, torch.Tensor) else (gated, *output[1:])

        return gate


def test_taylor_is_the_gradient_of_gates(model: dp.Model, calibration: dp.Calibration) -> None:
    gates = _Gates(model)
    losses = [gates.loss(window.tokens) for window in calibration.windows]
    loss = sum(w * x for w, x in zip(WEIGHTS, losses, strict=True))
    loss.backward()  # type: ignore[union-attr]
    expected = gates.values.grad.abs().numpy()  # type: ignore[union-attr]
    found = dp.Evaluator(model, calibration).measure("taylor")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(dp.Evaluator(model, calibration).dense.loss, rel=1e-5)  # type: ignore[union-attr]


def _items() -> Any:
    rng = np.random.default_rng(0)
    return calibration_of([random_item(rng) for _ in range(6)])


@pytest.mark.parametrize("name", sorted(importance.MEASURES))
def test_items_are_measured_alike_packed_and_with_a_row_for_each_option(
    name: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    packed = dp.Evaluator(model, _items()).measure(name)
    monkeypatch.setattr(runner_module, "reads_packed_items", lambda model, windows: False)
    apart = dp.Evaluator(model, _items()).measure(name)
    np.testing.assert_allclose(packed, apart, rtol=1e-4, atol=1e-6)


def test_taylor_of_items_is_of_their_right_answers(tiny_llama: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = _items()
    gates = _Gates(model)
    parts = []
    for window in calibration.windows:
        first, last = window.item.spans[window.item.answer]
        prompt = window.item.spans[0][0]
        tokens = np.concatenate([window.tokens[:prompt], window.tokens[first:last]])
        parts.append(gates.loss(tokens, slice(prompt - 1, None)))
    loss = sum(parts) / len(parts)
    loss.backward()  # type: ignore[union-attr]
    found = dp.Evaluator(model, calibration).measure("taylor")
    np.testing.assert_allclose(found, gates.values.grad.abs(), rtol=1e-4, atol=1e-6)  # type: ignore[union-attr]


def test_a_gate_tells_what_removal_costs_to_first_order(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    """Along the gate of a block the loss's slope is the measurement."""
    gates = _Gates(model)
    found = dp.Evaluator(model, calibration).measure("taylor")
    for block in (0, 3):
        sides = []
        for step in (-1e-2, 1e-2):
            with torch.no_grad():
                gates.values.fill_(1.0)
                gates.values[block] += step
                losses = [gates.loss(w.tokens).item() for w in calibration.windows]
            sides.append(WEIGHTS @ losses)
        slope = (sides[1] - sides[0]) / 2e-2
        assert abs(slope) == pytest.approx(found[block], rel=0.05, abs=1e-3)


@pytest.mark.parametrize("name", sorted(importance.MEASURES))
def test_the_size_of_sheets_and_chunks_changes_no_measurement(
    name: str, tiny_llama: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=6,length=30", model)
    whole = dp.Evaluator(model, calibration).measure(name)
    for module, constant in ((taylor, "_HEAD_TOKENS"), (states, "_POSITIONS")):
        monkeypatch.setattr(module, constant, 7)
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 7})
    parts = dp.Evaluator(model, calibration).measure(name)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)


def test_windows_are_measured_alone_so_that_memory_and_company_change_nothing(
    tiny_llama: Path, text: Path
) -> None:
    model = dp.load(tiny_llama, dtype="bfloat16", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=6,length=30", model)
    memory = 60 * 8 * model.anatomy.state_bytes(24)
    with hostile_arithmetic():
        few = dp.Evaluator(model, calibration, memory=memory).measure("angular")
        many = dp.Evaluator(model, calibration).measure("angular")
    np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize(("name", "runs"), [("block-influence", 1), ("angular", 1), ("taylor", 4)])
def test_a_measurement_is_paid_for_in_block_tokens(
    name: str, runs: int, tiny_llama: Path, text: Path
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    evaluator = dp.Evaluator(model, dp.calibrate(f"text:{text},windows=2,length=30", model))
    evaluator.measure(name)
    cost = evaluator.cost
    assert (cost.evaluations, cost.block_tokens) == (0, runs * 6 * 60)
    assert cost.plain_block_tokens == cost.block_tokens


@pytest.mark.parametrize("name", sorted(importance.MEASURES))
def test_a_measurement_is_made_once_and_kept_in_the_memo(
    name: str, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=2,length=30", model)
    with dp.Memo.open(tmp_path / "memo") as memo:
        first = dp.Evaluator(model, calibration, memo=memo)
        values = first.measure(name)
        spent = first.cost
        np.testing.assert_array_equal(first.measure(name), values)
        assert replace(first.cost, seconds=0) == replace(spent, seconds=0)
        again = dp.Evaluator(model, calibration, memo=memo)
        np.testing.assert_array_equal(again.measure(name), values)
        assert (again.cost.block_tokens, again.cost.plain_block_tokens) == (0, 0)
        assert again.cost.asked_block_tokens == spent.asked_block_tokens
        again.forget_asked()
        again.measure(name)
        assert again.cost.asked_block_tokens == 2 * spent.asked_block_tokens
        shorter = dp.calibrate(f"text:{text},windows=1,length=30", model)
        other = dp.Evaluator(model, shorter, memo=memo)
        other.measure(name)
        assert other.cost.block_tokens == spent.block_tokens // 2


def test_a_measurement_leaves_scores_as_they_were(tiny_llama: Path, text: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=2,length=30", model)
    before = dp.Evaluator(model, calibration).score([(1, 3)])[0].loss
    evaluator = dp.Evaluator(model, calibration)
    evaluator.measure("taylor")
    assert evaluator.score([(1, 3)])[0].loss == before
    assert all(p.grad is None for p in model.module.parameters())


def test_an_unknown_measurement_is_refused(tiny_llama: Path, text: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    evaluator = dp.Evaluator(model, dp.calibrate(f"text:{text},windows=2,length=30", model))
    with pytest.raises(UsageError, match="unknown measurement 'tailor'; did you mean 'taylor'"):
        evaluator.measure("tailor")


@pytest.mark.parametrize("name", ["block-influence", "relative-magnitude", "taylor"])
def test_a_ranking_removes_the_blocks_of_lowest_value(
    name: str, tiny_llama: Path, text: Path
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    evaluator = dp.Evaluator(model, dp.calibrate(f"text:{text},windows=2,length=30", model))
    values = evaluator.measure(name)
    result = search(name, evaluator, k=3)
    assert result.removed == tuple(sorted(np.argsort(values)[:3].tolist()))
    assert result.score.exact
    assert [len(step) for step in result.path] == [1, 2, 3]


def test_angular_removes_the_window_of_least_angle(tiny_llama: Path, text: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    evaluator = dp.Evaluator(model, dp.calibrate(f"text:{text},windows=2,length=30", model))
    first = int(np.nanargmin(evaluator.measure("angular")[:, 3]))
    assert search("angular", evaluator, k=3).removed == (first, first + 1, first + 2)
