"""Losses from tiles are those from whole logits, however the vocabulary is cut."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from depthprune.evaluator.tile_walk import losses_by_tiles
from depthprune.models.blocks.projection import Finish, Projection
from depthprune.objectives import KL, NLL, Acceptance, Accuracy, Cosine, Margin
from depthprune.objectives import tiles as tiles_module
from depthprune.objectives.tiles import Tiled, is_tiled

OBJECTIVES: list[Tiled] = [
    NLL(),
    KL(),
    KL("reverse"),
    KL(top=5),
    KL("reverse", top=120),
    Acceptance(),
    Acceptance(0),
]
KEYS = ("dense", "a", "b")


def _drawn(dtype: torch.dtype) -> tuple[nn.Linear, dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(24, 101).to(dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(101, 24, generator=generator))
        linear.bias.copy_(torch.randn(101, generator=generator))
    states = {key: torch.randn(37, 24, generator=generator).to(dtype) for key in KEYS}
    return linear, states, torch.randint(101, (37,), generator=generator)


def _whole(linear: nn.Linear, states: Tensor, finish: Finish, dtype: torch.dtype) -> Tensor:
    logits = states.to(dtype) @ linear.weight.to(dtype).T + linear.bias.to(dtype)
    if finish.cap is None:
        return logits * finish.scale
    return finish.cap * (logits * finish.scale / finish.cap).tanh()


@torch.inference_mode()
@pytest.mark.parametrize(("columns", "rows"), [(1, 64), (7, 16), (101, 5), (1000, 1000)])
@pytest.mark.parametrize("finish", [Finish(), Finish(0.25), Finish(2.0, 9.0)])
def test_tiles_give_what_whole_logits_give(
    columns: int, rows: int, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_module, "COLUMNS", columns)
    monkeypatch.setattr(tiles_module, "ROWS", rows)
    linear, states, targets = _drawn(torch.float32)
    projection = Projection((), linear, finish)
    found = losses_by_tiles(OBJECTIVES, dict.fromkeys(KEYS, projection), states, targets, "dense")
    monkeypatch.undo()
    whole = {key: _whole(linear, each, finish, torch.float32) for key, each in states.items()}
    for key in KEYS:
        for objective, ours in zip(OBJECTIVES, found[key], strict=True):
            theirs = objective.token_losses(whole[key], targets, whole["dense"])  # type: ignore[attr-defined]
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@torch.inference_mode()
def test_the_dense_model_is_no_distance_from_itself() -> None:
    linear, states, targets = _drawn(torch.bfloat16)
    found = losses_by_tiles(
        OBJECTIVES, dict.fromkeys(KEYS, Projection((), linear)), states, targets, "dense"
    )
    for loss in found["dense"][1:]:
        assert loss.abs().max() <= 1e-6
    for loss in found["dense"][1:5]:
        assert loss.abs().max() == 0


@torch.inference_mode()
@pytest.mark.parametrize("confident", [False, True])
def test_in_bfloat16_tiles_err_less_than_whole_logits(confident: bool) -> None:
    """Both against float64 from the same states and weights, where targets are likely or not."""
    linear, states, targets = _drawn(torch.bfloat16)
    exact = _whole(linear, states["a"], Finish(), torch.float64)
    if confident:
        targets = exact.argmax(-1)
    expected = exact.logsumexp(-1) - exact.gather(1, targets[:, None])[:, 0]
    (tiled,) = losses_by_tiles(
        [NLL()], {"a": Projection((), linear)}, {"a": states["a"]}, targets, ""
    )["a"]
    whole = NLL().token_losses(linear(states["a"]), targets, None)
    ours, theirs = ((each - expected).abs().mean() for each in (tiled, whole))
    assert ours < theirs


@torch.inference_mode()
def test_a_row_follows_no_row_beside_it() -> None:
    linear, states, targets = _drawn(torch.bfloat16)
    projection = Projection((), linear)
    both = losses_by_tiles([NLL(), KL()], dict.fromkeys(KEYS, projection), states, targets, "dense")
    few = {key: states[key] for key in ("dense", "b")}
    alone = losses_by_tiles([NLL(), KL()], dict.fromkeys(few, projection), few, targets, "dense")
    for ours, theirs in zip(both["b"], alone["b"], strict=True):
        assert torch.equal(ours, theirs)


def test_what_changes_a_tokens_loss_has_no_tiles_of_its_own() -> None:
    @dataclass(frozen=True)
    class Doubled(NLL):
        def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
            return 2 * super().token_losses(outputs, targets, dense)

    assert all(is_tiled(each) for each in (*OBJECTIVES, Accuracy(), Margin()))
    assert not is_tiled(Doubled())
    assert not is_tiled(Cosine())
