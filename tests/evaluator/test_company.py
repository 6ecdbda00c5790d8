"""A window's loss is the same to the bit whoever computes it, and beside whichever windows.

Under an arithmetic in which every product rounds by the number of rows in its call, as it does on
matrix units and GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from items import calibration_of, random_item, random_text

import depthprune as dp
from depthprune.calibration import Window
from depthprune.evaluator import Memo
from depthprune.evaluator import calls as calls_module
from depthprune.evaluator import losses as losses_module
from depthprune.evaluator import memory as memory_module
from depthprune.evaluator.batches import reads_packed_items
from depthprune.evaluator.calls import reads_rows_apart
from depthprune.evaluator.forward import Forward
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.projection import ProjectedRows
from depthprune.searches import search
from tiny import save_tiny
from versions import needs_transformers_5

SETS = [(), (1,), (2, 4), (0, 3)]


pytestmark = pytest.mark.usefixtures("hostile")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dp.Model:
    folder = save_tiny(tmp_path_factory.mktemp("tiny") / "llama")
    return dp.load(folder, dtype="bfloat16", device="cpu")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dp.Model:
    folder = save_tiny(tmp_path_factory.mktemp("tiny") / "mixtral", "mixtral")
    return dp.load(folder, dtype="bfloat16", device="cpu")


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo.open(tmp_path / "memo.sqlite") as opened:
        yield opened


def _texts(count: int, length: int = 32) -> list[Window]:
    rng = np.random.default_rng(length)
    return [random_text(rng, length) for _ in range(count)]


def _items(count: int) -> list[Window]:
    rng = np.random.default_rng(7)
    return [random_item(rng) for _ in range(count)]


def _losses(evaluator: dp.Evaluator, sets: Any = SETS) -> Any:
    return np.stack([score.window_losses for score in evaluator.score(sets)])


@pytest.fixture(params=["alone", "shared"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """Text of two lengths and items, each alone in its call, or several in one."""
    shared = request.param == "shared"
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128 if shared else 1})
    monkeypatch.setattr(calls_module, "_ITEM_STEP", {"cpu": 32})
    return [*_texts(4), *_texts(4, 21), *_items(4)]


def test_windows_share_calls_and_a_loss_rounds_by_how_many(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic bites: what the tests below hold would not hold of itself."""
    calibration = calibration_of(_texts(16))
    found = []
    for tokens in (1, 64, 128):
        monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": tokens})
        evaluator = dp.Evaluator(model, calibration)
        assert evaluator._runner.calls.rows == max(1, tokens // 32)
        found.append(_losses(evaluator))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])
    np.testing.assert_allclose(found[0], found[2], rtol=2e-2)


def test_a_memo_that_a_smaller_calibration_filled_changes_nothing(
    model: dp.Model, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128})
    texts = _texts(16)
    whole = _losses(dp.Evaluator(model, calibration_of(texts)))
    for some in (texts[3:6], texts[9:13], texts[1:2], texts[:8]):
        dp.Evaluator(model, calibration_of(some), memo=memo).score(SETS)
    evaluator = dp.Evaluator(model, calibration_of(texts), memo=memo)
    np.testing.assert_array_equal(_losses(evaluator), whole)
    assert evaluator.cost.recalled == len(SETS) * 12


def test_windows_that_were_scored_one_by_one_change_nothing(
    model: dp.Model, memo: Memo, windows: list[Window]
) -> None:
    calibration = calibration_of(windows)
    whole = _losses(dp.Evaluator(model, calibration, "nll"))
    evaluator = dp.Evaluator(model, calibration, "nll", memo=memo)
    for count in (1, 3, 7):
        evaluator.score(SETS[1:3], windows=count)
    np.testing.assert_array_equal(_losses(evaluator), whole)
    again = dp.Evaluator(model, calibration, "nll", memo=memo)
    np.testing.assert_array_equal(_losses(again), whole)
    assert again.cost.block_tokens == 0


def test_three_windows_that_are_left_change_nothing(
    model: dp.Model, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = calibration_of(windows)
    whole = _losses(dp.Evaluator(model, calibration))
    evaluator = dp.Evaluator(model, calibration)
    evaluator._compute(SETS, [p for p in range(len(windows)) if p not in (1, 6, 10)])
    np.testing.assert_array_equal(_losses(evaluator), whole)


@pytest.mark.parametrize("objective", ["nll", "kl", "nll:0.5+option-ce:0.5"])
def test_another_search_changes_nothing(
    objective: str, model: dp.Model, memo: Memo, windows: list[Window]
) -> None:
    calibration = calibration_of(windows)
    undisturbed = search("greedy", dp.Evaluator(model, calibration, objective), k=1)
    search("one-shot", dp.Evaluator(model, calibration, objective, memo=memo), k=3)
    beside = search("greedy", dp.Evaluator(model, calibration, objective, memo=memo), k=1)
    assert beside.path == undisturbed.path
    assert [p.loss for p in beside.trace] == [p.loss for p in undisturbed.trace]
    assert beside.score == undisturbed.score


def test_items_are_judged_alike_in_any_company(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_ITEM_STEP", {"cpu": 32})
    items = _items(16)
    whole = _losses(dp.Evaluator(model, calibration_of(items), "option-ce"))
    evaluator = dp.Evaluator(model, calibration_of(items), "option-ce")
    for place in (5, 0, 11):
        evaluator._compute(SETS, [place])
    np.testing.assert_array_equal(_losses(evaluator), whole)


@pytest.mark.parametrize(("model_type", "reads"), [("llama", True), ("mistral", False)])
def test_whether_items_are_packed_does_not_follow_rounding(
    model_type: str, reads: bool, tmp_path: Path
) -> None:
    """A sliding window of eight tokens misreads them; bfloat16 rounds the right reading as far."""
    loaded = dp.load(save_tiny(tmp_path, model_type), dtype="bfloat16", device="cpu")
    before = [p.clone() for p in loaded.module.parameters()]
    assert reads_packed_items(loaded, _items(6)) == reads
    assert all(map(torch.equal, before, loaded.module.parameters()))


def test_how_many_sets_are_walked_together_changes_nothing(
    model: dp.Model, windows: list[Window]
) -> None:
    sets = [(0, 1), (0, 2), (0, 4), (2, 3), (4,)]
    calibration = calibration_of(windows)
    together = _losses(dp.Evaluator(model, calibration), sets)
    apart = np.concatenate([_losses(dp.Evaluator(model, calibration), [s]) for s in sets])
    np.testing.assert_array_equal(together, apart)


@pytest.mark.usefixtures("no_rounding")
@pytest.mark.parametrize("after", [3])
def test_a_search_that_stopped_is_finished_to_the_bit(
    after: int, model: dp.Model, memo: Memo, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = calibration_of(windows)
    whole = search("greedy", dp.Evaluator(model, calibration), k=2)
    left, group = after, Forward._group

    def stopping(self: Forward, *arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return group(self, *arguments)

    monkeypatch.setattr(Forward, "_group", stopping)
    with pytest.raises(KeyboardInterrupt):
        search("greedy", dp.Evaluator(model, calibration, memo=memo), k=2)
    monkeypatch.setattr(Forward, "_group", group)
    evaluator = dp.Evaluator(model, calibration, memo=memo)
    resumed = search("greedy", evaluator, k=2)
    assert evaluator.cost.recalled > 0
    assert [p.loss for p in resumed.trace] == [p.loss for p in whole.trace]
    assert (resumed.path, resumed.score) == (whole.path, whole.score)


def test_rows_that_are_missing_are_filled_by_windows_that_a_race_comes_to_next(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128})
    evaluator = dp.Evaluator(model, calibration_of(_texts(16)))
    evaluator.score([(1,)], windows=3)
    assert evaluator.cost.block_tokens == 5 * 4 * 32
    assert evaluator.cost.asked_block_tokens == 5 * 4 * 32
    evaluator.score([(1,)], windows=4)
    assert evaluator.cost.block_tokens == 5 * 4 * 32
    evaluator.score([(1,)])
    assert evaluator.cost.block_tokens == 5 * 16 * 32


def test_what_is_filled_up_is_counted(model: dp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128})
    evaluator = dp.Evaluator(model, calibration_of(_texts(15)))
    evaluator.score([(1,)])
    assert evaluator.cost.block_tokens == 5 * 16 * 32
    assert evaluator.cost.plain_block_tokens == 5 * 15 * 32
    assert evaluator.cost.head_tokens == 15 * 31
    assert evaluator._runner.calls.tokens() == 16 * 32


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_few_windows_are_not_filled_up_to_a_call(
    count: int, model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 512})
    evaluator = dp.Evaluator(model, calibration_of(_texts(count)))
    assert evaluator._runner.calls.tokens() == count * 32


@needs_transformers_5
def test_experts_are_sent_what_is_in_the_other_rows_so_their_windows_are_alone(
    experts: dp.Model, model: dp.Model, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128})
    experts.module.set_experts_implementation("eager")  # type: ignore[operator]
    assert reads_rows_apart(model, 4, 32)
    assert not reads_rows_apart(experts, 4, 32)
    texts = _texts(16)
    whole = _losses(dp.Evaluator(experts, calibration_of(texts)))
    dp.Evaluator(experts, calibration_of(texts[5:8]), memo=memo).score(SETS)
    evaluator = dp.Evaluator(experts, calibration_of(texts), memo=memo)
    assert evaluator._runner.calls.rows == 1
    np.testing.assert_array_equal(_losses(evaluator), whole)
    assert evaluator.cost.recalled == len(SETS) * 3


def test_what_is_computed_after_memory_ran_out_is_kept_under_its_own_shape(
    model: dp.Model, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": 128})
    calibration = calibration_of(_texts(16))
    whole = _losses(dp.Evaluator(model, calibration))
    cramped = dp.Evaluator(model, calibration, memo=memo)
    cramped.score(SETS[:2])
    call = Anatomy.call

    def calling(anatomy: Any, block: int, state: Any, inputs: Any) -> Any:
        if len(state) > 2:
            raise MemoryError
        return call(anatomy, block, state, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Anatomy, "call", calling)
        cramped.score(SETS[2:])
    evaluator = dp.Evaluator(model, calibration, memo=memo)
    np.testing.assert_array_equal(_losses(evaluator), whole)
    assert evaluator.cost.recalled == 2 * 16


def test_a_changed_model_is_scored_in_the_calls_of_the_unchanged_one(
    model: dp.Model, windows: list[Window]
) -> None:
    from contextlib import nullcontext

    evaluator = dp.Evaluator(model, calibration_of(windows))
    (plain,) = evaluator.score([(2, 4)])
    assert evaluator.score_changed((2, 4), nullcontext) == plain


def test_short_windows_share_a_chunk_of_the_head_and_change_nothing(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of 64 tokens: a chunk has the rows of their call, however many are asked for."""
    windows = _texts(11, 64)
    shapes: set[tuple[int, ...]] = set()
    plain = ProjectedRows.product

    def product(rows: ProjectedRows, first: int, last: int) -> Any:
        shapes.add(tuple(rows._states.shape))
        return plain(rows, first, last)

    monkeypatch.setattr(ProjectedRows, "product", product)
    whole = _losses(dp.Evaluator(model, calibration_of(windows), "kl"))
    assert {rows for rows, _ in shapes} == {256}
    evaluator = dp.Evaluator(model, calibration_of(windows), "kl")
    for place in (5, 0, 10, 3):
        evaluator._compute(SETS, [place])
    np.testing.assert_array_equal(_losses(evaluator), whole)
    # Where rows round by what stands beside them, each window has a chunk of its own.
    monkeypatch.setattr(losses_module, "rows_round_apart", lambda projection, rows: False)
    shapes.clear()
    apart = _losses(dp.Evaluator(model, calibration_of(windows), "kl"))
    assert {rows for rows, _ in shapes} == {64}
    np.testing.assert_allclose(apart, whole, rtol=5e-3)
