"""Every objective through the evaluator is what plain forwards give by its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from items import calibration_of, item_of, random_item, random_text
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import depthprune as dp
from depthprune.calibration import Window
from depthprune.errors import EvaluationError
from depthprune.evaluator import calls as calls_module
from depthprune.evaluator import memory as memory_module
from depthprune.evaluator.batches import reads_packed_items
from depthprune.objectives.nll import NLL
from tiny import tiny_model
from versions import needs_transformers_5

SETS = [(), (1,), (2, 4), (0, 5)]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[Window]:
    rng = np.random.default_rng(0)
    return [random_text(rng, length) for length in (24, 24, 17, 24)]


@pytest.fixture(scope="module")
def items() -> list[Window]:
    rng = np.random.default_rng(1)
    return [random_item(rng) for _ in range(9)]


@torch.inference_mode()
def _logits(model: dp.Model, tokens: np.ndarray, removed: tuple[int, ...]) -> Tensor:
    with model.anatomy.masked(removed) as module:
        ids = torch.from_numpy(tokens)[None]
        return module(input_ids=ids, use_cache=False).logits[0].double()


def _item_losses(model: dp.Model, window: Window, removed: tuple[int, ...]) -> list[np.ndarray]:
    """−log p of each option's tokens, each option read behind the prompt alone."""
    assert window.item is not None
    prompt = window.tokens[: window.item.spans[0][0]]
    losses = []
    for first, last in window.item.spans:
        option = window.tokens[first:last]
        log = _logits(model, np.concatenate([prompt, option]), removed).log_softmax(-1)
        steps = np.arange(len(option))
        losses.append(-log[len(prompt) - 1 + steps, option].numpy())
    return losses


@pytest.mark.parametrize("together", [1, 1 << 14])
def test_kl_is_taken_against_the_dense_model(
    model: dp.Model, texts: list[Window], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CALL_TOKENS", {"cpu": together})
    scores = dp.Evaluator(model, calibration_of(texts), "kl").score(SETS)
    for score in scores:
        for window, loss in zip(texts, score.window_losses, strict=True):
            p = _logits(model, window.tokens, ())[:-1].log_softmax(-1)
            q = _logits(model, window.tokens, score.removed)[:-1].log_softmax(-1)
            assert loss == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-5)
    assert scores[0].loss == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_acceptance_is_that_of_the_dense_models_draft(
    model: dp.Model, texts: list[Window], temperature: float
) -> None:
    name = f"acceptance:temperature={temperature}"
    evaluator = dp.Evaluator(model, calibration_of(texts), name)
    scores = evaluator.score(SETS)
    for score in scores:
        for window, loss in zip(texts, score.window_losses, strict=True):
            theirs = _logits(model, window.tokens, ())[:-1]
            ours = _logits(model, window.tokens, score.removed)[:-1]
            if temperature:
                p, q = ((each / temperature).softmax(-1) for each in (theirs, ours))
                accepted = float(torch.minimum(p, q).sum(-1).mean())
            else:
                accepted = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
            assert math.exp(-loss) == pytest.approx(max(accepted, 2**-10), abs=1e-5)
    assert scores[0].loss == pytest.approx(0, abs=1e-6)
    tokens = sum(len(w.tokens) - 1 for w in texts)
    passes = 2 if temperature else 1
    assert evaluator.cost.head_tokens == passes * len(SETS) * tokens
    found = dp.search("greedy", evaluator, k=2)
    exact = dp.search("greedy", dp.Evaluator(model, calibration_of(texts), name, racing=None), k=2)
    assert found.score.loss == pytest.approx(exact.score.loss, rel=2e-3, abs=1e-6)


def test_kl_walks_the_dense_model_beside_the_sets_and_stores_none_of_it(
    model: dp.Model, texts: list[Window]
) -> None:
    evaluator = dp.Evaluator(model, calibration_of(texts), "kl")
    evaluator.score([(3,)])
    tokens = sum(len(w.tokens) for w in texts)
    assert evaluator.cost.block_tokens == (6 + 2) * tokens
    assert evaluator.cost.head_tokens == 2 * sum(len(w.tokens) - 1 for w in texts)


def test_little_memory_splits_the_sets_and_keeps_the_dense_model_beside_each(
    model: dp.Model, texts: list[Window]
) -> None:
    sets = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    calibration = calibration_of(texts)
    roomy = dp.Evaluator(model, calibration, "kl").score(sets)
    tight = dp.Evaluator(model, calibration, "kl", memory=2 * 24 * 32 * 4).score(sets)
    for a, b in zip(roomy, tight, strict=True):
        np.testing.assert_allclose(a.window_losses, b.window_losses, atol=1e-6)


def test_cosine_compares_final_states_and_runs_no_head(
    model: dp.Model, texts: list[Window]
) -> None:
    evaluator = dp.Evaluator(model, calibration_of(texts), "cosine")
    score = evaluator.score([(2, 4)])[0]
    norm = model.module.model.norm  # type: ignore[union-attr]
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    for window, loss in zip(texts, score.window_losses, strict=True):
        seen.clear()
        for removed in ((), (2, 4)):
            _logits(model, window.tokens, removed)
        dense, pruned = (states[:-1] for states in seen)
        expected = 1 - torch.cosine_similarity(dense, pruned, dim=-1).mean()
        assert loss == pytest.approx(float(expected), abs=1e-5)
    hook.remove()
    assert evaluator.cost.head_tokens == 0


def _lead(ll: list[float], right: int) -> float:
    return sum(ll[right] - other for i, other in enumerate(ll) if i != right)


def _cross_entropy(ll: list[float], right: int) -> float:
    return -math.log(math.exp(ll[right]) / sum(math.exp(each) for each in ll))


def _wrong(ll: list[float], right: int) -> float:
    return float(ll.index(max(ll)) != right)


DEFINITIONS: dict[str, tuple[str, Callable[[list[float], int], float]]] = {
    "margin": ("token", lambda ll, right: -_lead(ll, right)),
    "margin:normalised=true": ("token", lambda ll, right: -_lead(ll, right) / (len(ll) - 1)),
    "option-ce": ("sum", _cross_entropy),
    "option-ce:by=token": ("token", _cross_entropy),
    "option-ce:by=byte": ("byte", _cross_entropy),
    "accuracy": ("sum", _wrong),
    "accuracy:by=token": ("token", _wrong),
    "accuracy:by=byte": ("byte", _wrong),
}
"""Of each objective of items: how ll is measured, and the loss of the options' ll."""


@pytest.mark.parametrize("objective", DEFINITIONS)
@pytest.mark.parametrize("step", [1, 32])
def test_objectives_of_items_read_each_option_behind_the_prompt_alone(
    model: dp.Model, items: list[Window], objective: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, or filled up so that several share a call."""
    monkeypatch.setattr(calls_module, "_ITEM_STEP", {"cpu": step})
    evaluator = dp.Evaluator(model, calibration_of(items), objective)
    by, definition = DEFINITIONS[objective]
    for score in evaluator.score(SETS):
        for window, loss in zip(items, score.window_losses, strict=True):
            assert window.item is not None
            losses = _item_losses(model, window, score.removed)
            sizes = {"sum": [1] * len(losses), "byte": window.item.bytes}
            sizes["token"] = [len(option) for option in losses]
            ll = [-float(o.sum()) / n for o, n in zip(losses, sizes[by], strict=True)]
            assert loss == pytest.approx(definition(ll, window.item.answer), abs=1e-4)


def test_the_prompt_is_computed_once_for_all_options(model: dp.Model, items: list[Window]) -> None:
    assert reads_packed_items(model, items)
    evaluator = dp.Evaluator(model, calibration_of(items), "option-ce")
    evaluator.score([()])
    filled = [-(-len(window.tokens) // 16) * 16 for window in items]
    assert evaluator.cost.block_tokens == 6 * sum(filled)


@pytest.mark.filterwarnings("ignore:.position_ids. have no functionality in BLOOM")
@pytest.mark.parametrize("model_type", ["mistral", "mamba", "qwen3_next", "gpt2", "bloom"])
def test_a_model_that_cannot_read_packed_items_reads_a_row_an_option(
    model_type: str, tmp_path: Path
) -> None:
    """Windowed attention, recurrence and learned positions: whichever way, the losses are plain."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this transformers does not know it")
    module = tiny_model(model_type)
    module.save_pretrained(tmp_path)
    other = _loaded(tmp_path, module)
    rng = np.random.default_rng(2)
    items = [random_item(rng, longest=30) for _ in range(4)]
    for score in dp.Evaluator(other, calibration_of(items), "option-ce").score([(), (1, 3)]):
        for window, loss in zip(items, score.window_losses, strict=True):
            ll = np.array([-row.sum() for row in _item_losses(other, window, score.removed)])
            expected = np.log(np.exp(ll).sum()) - ll[window.item.answer]  # type: ignore[union-attr]
            assert loss == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


def test_an_item_of_many_short_options_does_not_hide_what_a_window_passes_over(
    tmp_path: Path,
) -> None:
    """The longest row is that of the item whose options each fit into the model's window."""
    module = tiny_model("mistral", sliding_window=24)
    module.save_pretrained(tmp_path)
    rng = np.random.default_rng(3)
    many, far = item_of(rng, 6, [5] * 12), item_of(rng, 40, [5, 4])
    for items in ([many, far], [far, many]):
        assert not reads_packed_items(_loaded(tmp_path, module), items)
    assert reads_packed_items(_loaded(tmp_path, module), [many])


@pytest.mark.parametrize(
    "model_type", ["qwen3_next", pytest.param("jamba", marks=needs_transformers_5)]
)
def test_items_of_single_tokens_do_not_hide_that_a_model_reads_from_one_option_into_the_next(
    model_type: str, tmp_path: Path
) -> None:
    """Yes and no, long behind a passage, beside short questions whose answers are words."""
    module = tiny_model(model_type)
    module.save_pretrained(tmp_path)
    other = _loaded(tmp_path, module)
    rng = np.random.default_rng(4)
    items = [item_of(rng, 30, [1, 1]), item_of(rng, 5, [3, 4]), item_of(rng, 20, [9, 1, 1])]
    assert not reads_packed_items(other, items)
    (score,) = dp.Evaluator(other, calibration_of(items), "option-ce").score([(1,)])
    ll = np.array([-row.sum() for row in _item_losses(other, items[1], (1,))])
    expected = np.log(np.exp(ll).sum()) - ll[items[1].item.answer]  # type: ignore[union-attr]
    assert score.window_losses[1] == pytest.approx(float(expected), rel=1e-3)


def _loaded(folder: Path, module: Any) -> dp.Model:
    from depthprune.models.blocks.find import find_anatomy
    from depthprune.models.source import find_model

    module.eval()
    source = find_model(folder)
    return dp.Model(source, module, None, find_anatomy(module), "float32", "cpu")


def test_a_mixture_divides_each_objective_by_the_dense_models_value(
    model: dp.Model, texts: list[Window], items: list[Window]
) -> None:
    both = calibration_of(texts, items)
    mixed = dp.Evaluator(model, both, "nll:1+option-ce:3").score(SETS)
    nll = dp.Evaluator(model, calibration_of(texts), "nll").score(SETS)
    choices = dp.Evaluator(model, calibration_of(items), "option-ce").score(SETS)
    for score, text, item in zip(mixed, nll, choices, strict=True):
        expected = 0.25 * text.loss / nll[0].loss
        expected += 0.75 * item.window_losses.mean() / choices[0].window_losses.mean()
        assert score.loss == pytest.approx(expected, rel=1e-5)
    assert mixed[0].loss == pytest.approx(1.0)


def test_a_mixture_with_what_is_zero_for_the_dense_model_is_refused(
    model: dp.Model,
    texts: list[Window],
    items: list[Window],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NLL, "window_loss", lambda *_: 0.0)
    with pytest.raises(EvaluationError, match="nll is 0 for the dense model"):
        dp.Evaluator(model, calibration_of(texts, items), "nll+option-ce").score([(1,)])
