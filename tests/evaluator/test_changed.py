"""A model with changed weights is compared with itself as it was, and nothing of it is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from items import calibration_of, random_item, random_text
from torch.nn.functional import cross_entropy, kl_div

import depthprune as dp
from depthprune.evaluator.memo.contexts import contexts_of
from depthprune.evaluator.memo.store import Memo
from depthprune.objectives import parse_objective
from depthprune.recovery import Recovery, recovered
from mended import loaded

REMOVED = (2, 3)


@pytest.fixture(params=[False, True], ids=["held", "streamed"])
def model(request: pytest.FixtureRequest, tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu", stream=request.param)


def _changed() -> Recovery:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(32, 48, generator=generator) / 4
    return Recovery(REMOVED, (), {"model.layers.1.mlp.down_proj.weight": weight})


def _texts() -> dp.Calibration:
    rng = np.random.default_rng(0)
    return calibration_of([random_text(rng, length) for length in (40, 24, 40)])


@torch.no_grad()
def _logits(model: dp.Model, tokens: np.ndarray, removed: tuple[int, ...] = ()) -> torch.Tensor:
    with model.anatomy.masked(removed) as masked:
        return masked(input_ids=torch.from_numpy(tokens)[None], use_cache=False).logits[0, :-1]


def _references(model: dp.Model, calibration: dp.Calibration) -> tuple[list[float], list[float]]:
    """NLL and KL of each window by plain forwards."""
    nll, kl = [], []
    for window in calibration.windows:
        dense = _logits(model, window.tokens).log_softmax(-1)
        with recovered(model, _changed()):
            ours = _logits(model, window.tokens, REMOVED).log_softmax(-1)
        nll.append(cross_entropy(ours, torch.from_numpy(window.tokens)[1:]).item())
        kl.append(kl_div(ours, dense, log_target=True, reduction="none").sum(-1).mean().item())
    return nll, kl


def test_losses_are_those_of_plain_forwards_with_the_dense_model_as_it_was(
    model: dp.Model,
) -> None:
    calibration, change = _texts(), partial(recovered, model, _changed())
    references = _references(model, calibration)
    for objective, expected in zip(("nll", "kl"), references, strict=True):
        score = dp.Evaluator(model, calibration, objective).score_changed(REMOVED, change)
        assert score.window_losses.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])  # a chain, and one with a soft cap
@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_and_head_may_be_among_what_is_changed(model_type: str, tied: bool) -> None:
    model = loaded(model_type, tie_word_embeddings=tied)
    generator = torch.Generator().manual_seed(4)
    blocks = f"{model.anatomy.blocks.path}."
    weights = {
        name: parameter.data * (1 + torch.randn(parameter.shape, generator=generator) / 4)
        for name, parameter in model.module.named_parameters()
        if not name.startswith(blocks) or ".1." in name
    }
    changed = Recovery(REMOVED, (), weights)
    calibration = _texts()
    for objective in ("nll", "kl", "kl:top=8"):
        evaluator = dp.Evaluator(model, calibration, objective)
        found = evaluator.score_changed(REMOVED, partial(recovered, model, changed))
        plain = evaluator.score([REMOVED])[0]
        for window, loss, as_it_was in zip(
            calibration.windows, found.window_losses, plain.window_losses, strict=True
        ):
            dense = _logits(model, window.tokens)
            with recovered(model, changed):
                ours = _logits(model, window.tokens, REMOVED)
            targets = torch.from_numpy(window.tokens)[1:]
            expected = evaluator.objective.components[0].objective.token_losses(
                ours, targets, dense
            )
            assert loss == pytest.approx(expected.mean().item(), rel=1e-5)
            assert loss != pytest.approx(as_it_was, rel=1e-3)


def test_a_mixture_is_scaled_by_the_dense_model_as_it_was(model: dp.Model) -> None:
    rng = np.random.default_rng(1)
    calibration = calibration_of([random_item(rng) for _ in range(6)])
    change = partial(recovered, model, _changed())
    parts = []
    for name in ("nll", "option-ce"):
        evaluator = dp.Evaluator(model, calibration, name)
        parts.append(evaluator.score_changed(REMOVED, change).loss / evaluator.dense.loss)
    mixed = dp.Evaluator(model, calibration, "nll+option-ce")
    assert mixed.score_changed(REMOVED, change).loss == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_nothing_of_a_changed_model_is_kept(tiny_llama: Path, tmp_path: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    plain = dp.Evaluator(model, _texts(), "kl").score([REMOVED])[0]
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        evaluator = dp.Evaluator(model, _texts(), "kl", memo=memo)
        changed = evaluator.score_changed(REMOVED, partial(recovered, model, _changed()))
        again = dp.Evaluator(model, _texts(), "kl", memo=memo)
        for each in (evaluator, again):
            assert each.score([REMOVED])[0].window_losses.tolist() == plain.window_losses.tolist()
    assert changed.loss != pytest.approx(plain.loss, rel=1e-3)


def test_what_a_changed_model_costs_is_counted(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    evaluator = dp.Evaluator(model, _texts(), "kl")
    evaluator.score_changed(REMOVED, partial(recovered, model, _changed()))
    # The dense model and the changed one share nothing: 6 blocks and 4.
    assert evaluator.cost.block_tokens == (40 + 24 + 40) * (6 + 4)
    assert evaluator.cost.evaluations == 1


def test_a_memo_tells_recovered_weights_from_the_models_own(
    model: dp.Model, tmp_path: Path
) -> None:
    calibration = _texts()
    plain = dp.Evaluator(model, calibration).score([REMOVED])[0].loss
    with dp.recovered(model, _changed()):
        mended = dp.Evaluator(model, calibration).score([REMOVED])[0].loss
    assert mended != pytest.approx(plain)
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        for _ in range(2):
            with dp.recovered(model, _changed()):
                evaluator = dp.Evaluator(model, calibration, memo=memo)
                assert evaluator.score([REMOVED])[0].loss == mended
            evaluator = dp.Evaluator(model, calibration, memo=memo)
            assert evaluator.score([REMOVED])[0].loss == plain
        assert evaluator.cost.recalled == len(calibration.windows)


def test_a_memo_tells_apart_which_weight_was_recovered(tiny_llama: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    (one,) = _changed().weights.values()
    other = one + 1
    found = []
    for first, second in (((0, one), (1, other)), ((1, other), (0, one)), ((0, one), (4, other))):
        named = {f"model.layers.{n}.mlp.down_proj.weight": w for n, w in (first, second)}
        with dp.recovered(model, Recovery(REMOVED, (), named)):
            found.append(contexts_of(model, parse_objective("nll"), False, "")[0].recovery)
    assert found[0] == found[1] != found[2]


def test_an_evaluator_is_of_the_weights_that_it_was_made_with(model: dp.Model) -> None:
    outside = dp.Evaluator(model, _texts())
    outside.score([REMOVED])
    with dp.recovered(model, _changed()):
        inside = dp.Evaluator(model, _texts())
        with pytest.raises(dp.UsageError, match="make another one inside"):
            outside.score([REMOVED])
    for ask in (lambda: inside.dense, lambda: inside.measure("taylor")):
        with pytest.raises(dp.UsageError, match="or behind it"):
            ask()
    assert outside.score([REMOVED])
