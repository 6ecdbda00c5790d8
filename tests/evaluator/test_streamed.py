"""A model whose blocks are read from disk: one reading for all windows, and the same losses."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from items import calibration_of, random_item, random_text

import depthprune as dp
from depthprune.errors import ModelError, UsageError
from depthprune.evaluator import forward as passes_module
from depthprune.evaluator.importance import measures as signals_module
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.carried import hidden
from depthprune.models.blocks.replay import Inputs
from depthprune.models.blocks.trees import leaves

SETS = [(), *((b,) for b in range(6)), (1, 4)]


@pytest.fixture(scope="module")
def held(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="bfloat16", device="cpu")


@pytest.fixture
def streamed(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="bfloat16", device="cpu", stream=True)


def _texts():
    rng = np.random.default_rng(0)
    return calibration_of([random_text(rng, length) for length in (700, 31, 700, 31, 900)])


@pytest.mark.parametrize("objective", ["nll", "kl"])
def test_all_windows_advance_behind_one_reading_of_each_block(
    streamed: dp.Model, held: dp.Model, objective: str
) -> None:
    assert streamed.stream is not None
    before = streamed.stream.bytes_read
    scores = dp.Evaluator(streamed, _texts(), objective).score(SETS)
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass
    assert scores == dp.Evaluator(held, _texts(), objective).score(SETS)


def _watched(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[StateStore]:
    """Every store that a module makes from here on."""
    stores: list[StateStore] = []

    class Watched(StateStore):
        def __init__(self, *budgets: int | None) -> None:
            super().__init__(*budgets)
            stores.append(self)

    monkeypatch.setattr(module, "StateStore", Watched)
    return stores


def test_states_past_the_budget_go_to_disk_and_change_nothing(
    streamed: dp.Model, held: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = _watched(passes_module, monkeypatch)
    assert streamed.stream is not None
    state, block = 2 * 32, streamed.anatomy.largest_block_bytes
    evaluator = dp.Evaluator(streamed, _texts(), memory=2 * 900 * state + block)
    before = streamed.stream.bytes_read
    scores = evaluator.score(SETS)
    assert stores[0].written > 0
    assert stores[0].in_memory == 0
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass
    for a, b in zip(scores, dp.Evaluator(held, _texts()).score(SETS), strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, rtol=2e-3)


def test_of_many_batches_no_state_and_no_mask_is_held_beside_the_memory(
    streamed: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch has positions of its own and the states before the first block."""
    inputs: list[Inputs] = []
    call = type(streamed.anatomy).call

    def noting(self, block, state, each):
        inputs.append(each)
        return call(self, block, state, each)

    monkeypatch.setattr(type(streamed.anatomy), "call", noting)
    dp.Evaluator(streamed, _texts()).score(SETS)
    assert all(hidden(each.states).numel() == 0 for each in inputs)
    first, alike = ([id(t) for _, t in leaves(each.calls[0].tree)] for each in inputs[:2])
    assert first == alike


@pytest.mark.parametrize("name", ["block-influence", "relative-magnitude", "angular"])
def test_a_measurement_reads_each_block_once_and_keeps_to_the_memory(
    name: str, streamed: dp.Model, held: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = _watched(signals_module, monkeypatch)
    assert streamed.stream is not None
    memory = 2 * 900 * 2 * 32 + streamed.anatomy.largest_block_bytes
    before = streamed.stream.bytes_read
    found = dp.Evaluator(streamed, _texts(), memory=memory).measure(name)
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass
    (store,) = stores
    assert store.written > 0
    assert store.in_memory == 0
    np.testing.assert_allclose(found, dp.Evaluator(held, _texts()).measure(name), rtol=2e-2)


def test_gradients_of_a_streamed_model_are_refused_before_anything_is_read(
    streamed: dp.Model,
) -> None:
    assert streamed.stream is not None
    before = streamed.stream.bytes_read
    with pytest.raises(ModelError, match="load it whole without --stream"):
        dp.Evaluator(streamed, _texts()).measure("taylor")
    assert streamed.stream.bytes_read == before


def test_a_budget_below_a_block_is_refused(streamed: dp.Model) -> None:
    with pytest.raises(UsageError, match="two states of 900 tokens and one block"):
        dp.Evaluator(streamed, _texts(), memory=2 * 900 * 64 + 1)


def test_items_are_read_a_row_an_option(streamed: dp.Model, held: dp.Model) -> None:
    rng = np.random.default_rng(1)
    items = calibration_of([random_item(rng) for _ in range(5)])
    ours = dp.Evaluator(streamed, items, "option-ce").score([(), (2,)])
    theirs = dp.Evaluator(held, items, "option-ce").score([(), (2,)])
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, atol=0.1)
