"""Kept blocks around a gap are refitted: what is planted comes back, as least squares has it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import depthprune as dp
from depthprune.errors import ModelError, UsageError
from depthprune.models.blocks.replay import hidden_of
from depthprune.recovery import Linear, parse_method
from depthprune.recovery.result import blocks_behind
from mended import drawn, loaded, logits, tokens_of, wrapped
from tiny import tiny_model


def rotated() -> dp.Model:
    """Block 0 permutes the residual stream's basis, and what is behind it reads it so."""
    model = wrapped(tiny_model(blocks=5))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))

    class Turning(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(32)[order])

        def forward(self, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
            return hidden_states @ self.weight.T

    model.module.model.layers[0] = Turning()
    return wrapped(model.module)


def given_and_made(
    model: dp.Model, block: int, names: list[str], text: torch.Tensor, removed: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What some layers are given and give in a plain forward pass, in float64."""
    seen: list[torch.Tensor] = []
    made: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: Any, output: Any) -> None:
        seen.append(args[0].double().flatten(0, -2))
        made.append(hidden_of(output).double().flatten(0, -2))

    with ExitStack() as stack:
        for name in names:
            module = model.anatomy.blocks.modules[block].get_submodule(name)
            stack.callback(module.register_forward_hook(note).remove)
        with torch.no_grad(), model.anatomy.masked(removed) as masked:
            masked(input_ids=text, use_cache=False)
    return seen[0], made


def test_readers_behind_a_gap_learn_to_read_another_basis(tmp_path: Path) -> None:
    """A run at the very bottom has no block before it that could learn; readers can."""
    model = rotated()
    calibration = drawn(tmp_path, model, windows=48)
    recovery = dp.recover(model, [0], calibration, Linear(refit="1"))
    text = torch.cat(tokens_of(calibration, chooses=True))
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    _, dense = given_and_made(model, 1, names, text, ())
    _, before = given_and_made(model, 1, names, text, [0])
    with dp.recovered(model, recovery):
        _, after = given_and_made(model, 1, names, text, [0])
    for ours, plain, theirs in zip(after, before, dense, strict=True):
        scale = theirs.abs().max()
        assert (plain - theirs).abs().max() > 0.1 * scale
        assert (ours - theirs).abs().max() < 1e-4 * scale


def test_a_refit_equals_plain_least_squares_over_all_activations(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    recovery = dp.recover(model, [0], calibration, Linear(refit="1"))
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    given, lacks = [], []
    for place, text in enumerate(tokens_of(calibration, chooses=False)):
        share = (0.75, 0.25)[place // 9] ** 0.5
        x, ours = given_and_made(model, 1, names, text, [0])
        _, theirs = given_and_made(model, 1, names, text, ())
        given.append(share * x)
        lacks.append([share * (b - a) for a, b in zip(ours, theirs, strict=True)])
    x = torch.cat(given)
    for which, done in enumerate(recovery.refits[:3]):
        e = torch.cat([each[which] for each in lacks])
        assert (done.layer, done.writes) == (names[which], False)
        penalty = (done.ridge * x.pow(2).sum() / 32).sqrt() * torch.eye(32).double()
        rows = torch.cat([x, penalty]), torch.cat([e, torch.zeros(32, e.shape[1]).double()])
        solved = torch.linalg.lstsq(*rows).solution.T
        delta = recovery.deltas[f"model.layers.1.{done.layer}.weight"].matrix.double()
        torch.testing.assert_close(delta, done.strength * solved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral", "gpt_neox", "olmo2"])
def test_refitting_blocks_behind_a_gap_brings_logits_nearer(
    model_type: str, tmp_path: Path
) -> None:
    model = loaded(model_type)
    calibration = drawn(tmp_path, model, windows=48)
    text = torch.cat(tokens_of(calibration, chooses=True))
    dense = logits(model, text)
    errors = []
    for method in (Linear(refit="none"), Linear(refit="0")):
        recovery = dp.recover(model, (1, 3), calibration, method)
        with dp.recovered(model, recovery):
            errors.append((logits(model, text, (1, 3)) - dense).pow(2).mean().item())
    assert errors[1] < errors[0]


def test_only_so_many_blocks_behind_each_gap_are_refitted(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    behind = {
        r.block
        for r in dp.recover(model, (1, 4), calibration, Linear(refit="1")).refits
        if not r.writes
    }
    assert behind == {2, 5}
    assert blocks_behind((1, 4), 6, 2) == (2, 3, 5)
    assert blocks_behind((1, 4), 6, 6) == (2, 3, 5)
    assert blocks_behind((1, 4), 6, 0) == ()


def test_more_blocks_than_there_are_are_refused(tmp_path: Path) -> None:
    model = loaded()
    with pytest.raises(UsageError, match="refit: expected below the model's 6 blocks, got 6"):
        dp.recover(model, [2], drawn(tmp_path, model), Linear(refit="6"))


def test_sums_that_memory_does_not_hold_are_refused_with_the_way_that_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = "depthprune.recovery.linear.refit.available_memory"
    monkeypatch.setattr(free, lambda device: 100_000)
    model = loaded()
    with pytest.raises(ModelError, match=r"block 1, of 48 inputs.*fit=outputs,refit=none"):
        dp.recover(model, [2], drawn(tmp_path, model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "linear:refit=some",
            r"refit: expected a number of blocks \(0 for all\) or none, got some",
        ),
        ("linear:refit=-1", r"refit: expected a number of blocks"),
        ("linear:fit=both", "fit: expected inputs or outputs, got 'both'"),
        ("linear:depth=3", "unknown parameter 'depth=3'; expected refit= or fit="),
    ],
)
def test_parameters_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_method(text)
