"""What can take a map is found by running, and a map written into it is a map behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from depthprune.models.blocks.replay import hidden_of
from depthprune.recovery.linear.fold import folded, swapped
from depthprune.recovery.linear.fold_target import (
    CannotFoldError,
    FoldTarget,
    find_fold_target,
)
from mended import loaded, logits

BLOCK = 3
TOKENS = torch.arange(3, 35)[None]


@contextmanager
def explicit(block: nn.Module, target: FoldTarget, matrix: torch.Tensor) -> Iterator[None]:
    """A module T behind each term."""

    def through(module: nn.Module, args: Any, output: Any) -> Any:
        moved = hidden_of(output) @ matrix.T
        return moved if isinstance(output, torch.Tensor) else (moved, *output[1:])

    with ExitStack() as stack:
        for name in target.terms:
            stack.callback(block.get_submodule(name).register_forward_hook(through).remove)
        yield


@pytest.mark.parametrize(
    ("model_type", "weights"),
    [
        ("llama", {"mlp.down_proj.weight": 0}),
        ("gpt2", {"mlp.c_proj.weight": 1, "mlp.c_proj.bias": 0}),
        ("opt", {"fc2.weight": 0, "fc2.bias": 0}),
        ("bloom", {"mlp.dense_4h_to_h.weight": 0, "mlp.dense_4h_to_h.bias": 0}),
        ("gpt_neox", {"mlp.dense_4h_to_h.weight": 0, "mlp.dense_4h_to_h.bias": 0}),
        ("falcon", {"mlp.dense_4h_to_h.weight": 0}),
        ("phi3", {"mlp.down_proj.weight": 0}),
    ],
)
def test_a_map_folded_into_a_dense_mlp_is_a_map_behind_it(
    model_type: str, weights: dict[str, int]
) -> None:
    target = _check_fold(model_type)
    assert {weight.name: weight.axis for weight in target.weights} == weights


@pytest.mark.parametrize(
    "model_type",
    ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoeshared"],
)
def test_a_map_folded_into_every_expert_and_the_shared_one_is_a_map_behind_them(
    model_type: str,
) -> None:
    target = _check_fold(model_type)
    names = " ".join(weight.name for weight in target.weights)
    assert "shared" in names or model_type in ("mixtral", "qwen3_moe", "gpt_oss")


def _check_fold(model_type: str, **settings: Any) -> FoldTarget:
    model = loaded(model_type, **settings)
    block = model.anatomy.blocks.modules[BLOCK]
    target = find_fold_target(model.anatomy, BLOCK)
    change = torch.randn(32, 32, generator=torch.Generator().manual_seed(1)).double() / 8
    with explicit(block, target, (torch.eye(32) + change).float()):
        expected = logits(model, TOKENS)
    new = {
        weight.name: folded(block.get_parameter(weight.name).data, change, weight.axis)
        for weight in target.weights
    }
    before = logits(model, TOKENS)
    with swapped(block, new):
        torch.testing.assert_close(logits(model, TOKENS), expected, rtol=1e-5, atol=2e-5)
    assert not torch.allclose(before, expected, atol=1e-2)
    assert torch.equal(logits(model, TOKENS), before)
    return target


def test_the_factor_before_the_residual_stream_is_measured() -> None:
    target = _check_fold("granite", residual_multiplier=0.3)
    assert target.scale == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "granitemoeshared"])
def test_what_is_watched_is_what_the_mlp_adds(model_type: str) -> None:
    model = loaded(model_type)
    anatomy = model.anatomy
    target = find_fold_target(anatomy, BLOCK)
    inputs = anatomy.record(TOKENS)
    block = anatomy.blocks.modules[BLOCK]
    with target.watching(block) as added:
        output = anatomy.call(BLOCK, inputs.states, inputs)
        share = added()
    nothing = {w.name: torch.zeros_like(block.get_parameter(w.name)) for w in target.weights}
    with swapped(block, nothing):
        rest = anatomy.call(BLOCK, inputs.states, inputs)
    torch.testing.assert_close((output - rest)[0].double(), share, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "norm"),
    [
        ("gemma2", "post_feedforward_layernorm"),
        ("gemma3_text", "post_feedforward_layernorm"),
        ("olmo2", "post_feedforward_layernorm"),
        ("glm4", "post_mlp_layernorm"),
    ],
)
def test_a_norm_behind_the_mlp_is_named(model_type: str, norm: str) -> None:
    with pytest.raises(CannotFoldError, match=rf"a norm \({norm}\) follows the MLP"):
        find_fold_target(loaded(model_type).anatomy, BLOCK)


def test_weights_that_another_block_has_too_are_left_alone() -> None:
    model = loaded()
    layers = model.module.model.layers
    layers[4].mlp.down_proj = layers[BLOCK].mlp.down_proj
    with pytest.raises(CannotFoldError, match=r"block 3 shares .*down_proj.weight with another"):
        find_fold_target(model.anatomy, BLOCK)
