"""A block's linear layers are found by running it: what reads alike, what writes, behind what."""

from __future__ import annotations

import pytest
import torch

from depthprune.recovery.linear.fold_target import CannotFoldError, find_fold_target
from depthprune.recovery.linear.stages import Stage, find_stages
from mended import loaded
from versions import needs_transformers_5

BLOCK = 3


def found(model_type: str, **settings: float) -> tuple[Stage, ...]:
    anatomy = loaded(model_type, **settings).anatomy
    try:
        terms = find_fold_target(anatomy, BLOCK).terms
    except CannotFoldError:
        terms = ()
    return find_stages(anatomy, BLOCK, terms)


@pytest.mark.parametrize(
    ("model_type", "readers", "writers"),
    [
        ("llama", ["q_proj k_proj v_proj", "gate_proj up_proj"], ["o_proj", "down_proj"]),
        ("gpt2", ["c_attn", "c_fc"], ["c_proj", "c_proj"]),
        ("gpt_neox", ["query_key_value", "dense_h_to_4h"], ["dense", "dense_4h_to_h"]),
        ("phi3", ["qkv_proj", "gate_up_proj"], ["o_proj", "down_proj"]),
        ("opt", ["q_proj k_proj v_proj", "fc1"], ["out_proj", "fc2"]),
        ("gemma3_text", ["q_proj k_proj v_proj", "gate_proj up_proj"], ["o_proj", "down_proj"]),
        ("olmo2", ["q_proj k_proj v_proj", "gate_proj up_proj"], ["o_proj", "down_proj"]),
        ("glm4", ["q_proj k_proj v_proj", "gate_up_proj"], ["o_proj", "down_proj"]),
        pytest.param("mixtral", ["q_proj k_proj v_proj"], ["o_proj"], marks=needs_transformers_5),
    ],
)
def test_layers_that_are_given_the_same_values_make_a_stage(
    model_type: str, readers: list[str], writers: list[str]
) -> None:
    stages = found(model_type)
    names = [" ".join(x.module.rpartition(".")[2] for x in stage.layers) for stage in stages]
    assert [n for n, s in zip(names, stages, strict=True) if s.scale is None] == readers
    assert [n for n, s in zip(names, stages, strict=True) if s.scale is not None] == writers


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "olmo2", "glm4"])
def test_a_norm_behind_a_writer_is_known_by_its_gain(model_type: str) -> None:
    model = loaded(model_type)
    block = model.anatomy.blocks.modules[BLOCK]
    norms = [stage.norm for stage in find_stages(model.anatomy, BLOCK) if stage.norm is not None]
    assert len(norms) == 2
    for norm in norms:
        given = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
        unit = given / given.pow(2).mean(-1, keepdim=True).sqrt()
        expected = block.get_submodule(norm.module)(given).double()
        torch.testing.assert_close(norm.gain * unit.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_may_have_switched_a_channel_off() -> None:
    model = loaded("gemma3_text")
    with torch.no_grad():
        norm = model.anatomy.blocks.modules[BLOCK].get_submodule("post_attention_layernorm")
        norm.weight[3] = -1.0
    gains = [s.norm.gain for s in find_stages(model.anatomy, BLOCK) if s.norm is not None]
    assert [int((gain == 0).sum()) for gain in gains] == [1, 0]


def test_a_norm_is_known_where_the_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    model = loaded("gemma3_text")
    monkeypatch.setattr(torch.Tensor, "double", refuse)
    stages = find_stages(model.anatomy, BLOCK)
    assert sum(stage.norm is not None for stage in stages) == 2


def test_the_factor_before_the_residual_stream_is_measured() -> None:
    scales = [s.scale for s in found("granite", residual_multiplier=0.3) if s.scale is not None]
    assert scales == pytest.approx([0.3, 0.3], rel=1e-4)


def test_a_weight_that_another_block_has_too_is_in_no_stage() -> None:
    model = loaded()
    layers = model.module.model.layers
    layers[4].self_attn.k_proj.weight = layers[BLOCK].self_attn.k_proj.weight
    layers[4].mlp.down_proj = layers[BLOCK].mlp.down_proj
    names = {x.module for s in find_stages(model.anatomy, BLOCK) for x in s.layers}
    assert "self_attn.q_proj" in names
    assert not names & {"self_attn.k_proj", "mlp.down_proj"}
