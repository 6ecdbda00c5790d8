"""Blocks are found without a list of names, and replaying them is what the model computes."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.carried import hidden
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.blocks.replay import relative_difference
from tiny import tiny_model
from versions import OLD

TYPES = (
    "llama",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "mpt",
    "phi",
    "gemma2",
    "gemma3_text",
    "cohere",
    "cohere2",
    "granite",
    "mixtral",
    "qwen2_moe",
    "smollm3",
    "deepseek_v3",
    "mamba",
    pytest.param(
        "recurrent_gemma",
        marks=pytest.mark.skipif(
            OLD, reason="keeps its recurrent state between calls before transformers 5"
        ),
    ),
)


def _tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 300, (batch, length), generator=torch.Generator().manual_seed(seed))


def _without(model: Any, removed: set[int]) -> Any:
    """The slow reference: a llama whose list of blocks really is shorter."""
    kept = [b for i, b in enumerate(model.model.layers) if i not in removed]
    model.model.layers = nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    return model


@pytest.mark.parametrize("model_type", TYPES)
def test_replaying_every_block_gives_the_models_own_logits(model_type: str) -> None:
    model = tiny_model(model_type)
    anatomy = find_anatomy(model)
    tokens = _tokens(3, 24)
    inputs = anatomy.record(tokens)
    states = inputs.states
    for block in range(len(anatomy.blocks)):
        states = anatomy.call(block, states, inputs)
    with torch.inference_mode():
        reference = model(input_ids=tokens, use_cache=False).logits
    assert len(anatomy.blocks) == 6
    assert relative_difference(anatomy.head(states), reference) <= 1e-5


@pytest.mark.parametrize("model_type", TYPES)
def test_stacked_states_give_what_each_gives_alone(model_type: str) -> None:
    anatomy = find_anatomy(tiny_model(model_type))
    inputs = anatomy.record(_tokens(2, 24))
    first = inputs.states
    second = first.flip(-1).contiguous()
    for block in (0, 3):
        both = anatomy.call(block, torch.cat([first, second, first]), inputs)
        for part, alone in zip(both.chunk(3), (first, second, first), strict=True):
            assert relative_difference(part, anatomy.call(block, alone, inputs)) <= 1e-5


def test_the_masked_model_is_the_model_with_a_shorter_list() -> None:
    tokens = _tokens(2, 20)
    anatomy = find_anatomy(tiny_model("llama"))
    with torch.inference_mode():
        with anatomy.masked((1, 4)) as module:
            masked = module(input_ids=tokens, use_cache=False).logits
        shorter = _without(tiny_model("llama"), {1, 4})(input_ids=tokens, use_cache=False).logits
    assert torch.equal(masked, shorter)


def test_a_mask_is_taken_off_again() -> None:
    model = tiny_model("llama")
    tokens = _tokens(1, 12)
    anatomy = find_anatomy(model)
    with torch.inference_mode():
        before = model(input_ids=tokens).logits
        with pytest.raises(KeyError), anatomy.masked((0, 5)):
            raise KeyError
        assert torch.equal(model(input_ids=tokens).logits, before)
    assert not any("forward" in block.__dict__ for block in anatomy.blocks.modules)


def test_recording_runs_no_block_and_no_head() -> None:
    model = tiny_model("llama")
    anatomy = find_anatomy(model)
    calls: list[str] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    for block in anatomy.blocks.modules:
        block.mlp.register_forward_hook(lambda *_: calls.append("mlp"))
    anatomy.record(_tokens(1, 16))
    assert calls == []


def test_recording_keeps_nothing_of_what_its_caller_held() -> None:
    """An exception ends it, whose frames Python 3.13 keeps until garbage is collected."""
    anatomy = find_anatomy(tiny_model("llama"))
    gone: list[weakref.ref[Tensor]] = []

    def holding() -> None:
        held = torch.ones(3)
        gone.append(weakref.ref(held))
        anatomy.record(_tokens(1, 16))

    gc.disable()
    try:
        holding()
        assert gone[0]() is None
    finally:
        gc.enable()


def test_a_head_that_scales_its_logits_is_run_by_the_models_own_forward() -> None:
    assert find_anatomy(tiny_model("llama")).head.chain is not None
    assert find_anatomy(tiny_model("gemma2")).head.chain is None


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3n_text", "xlnet", "roberta"])
def test_a_head_takes_more_tokens_than_the_model_has_positions_for(model_type: str) -> None:
    anatomy = find_anatomy(tiny_model(model_type))
    states = hidden(anatomy.record(_tokens(13, 16)).states)
    parts = torch.cat([anatomy.head(row[None]) for row in states])
    whole = anatomy.head(states.flatten(0, 1)[None, :200])
    assert whole.shape[:2] == (1, 200)
    assert relative_difference(whole[0], parts.flatten(0, 1)[:200]) <= 1e-5


def test_experts_inside_a_block_are_not_taken_for_blocks() -> None:
    assert find_anatomy(tiny_model("mixtral")).blocks.path == "model.layers"


class _Outer(nn.Module):
    """A language model around blocks that a test defines."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList(blocks)
        self.head = nn.Linear(8, 64)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def run(self, states: Tensor) -> Tensor:
        for block in self.layers:
            states = block(states)
        return states

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        class Output:
            logits = self.head(self.run(self.embed(input_ids)))

        return Output()


class _Leaky(_Outer):
    """Its blocks exchange more than hidden states: each is told what the last one added."""

    def run(self, states: Tensor) -> Tensor:
        extra = torch.zeros_like(states)
        for block in self.layers:
            after = block(states + extra)
            extra = 0.5 * (after - states)
            states = after
        return states


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    model = _Outer([nn.Linear(8, 8)]).eval()
    with pytest.raises(ModelError, match="found no list of blocks"):
        find_anatomy(model)


def test_a_model_whose_blocks_exchange_more_than_states_is_refused() -> None:
    torch.manual_seed(0)
    assert find_anatomy(_Outer([nn.Linear(8, 8) for _ in range(4)]).eval())
    with pytest.raises(ModelError, match="what no call of them shows"):
        find_anatomy(_Leaky([nn.Linear(8, 8) for _ in range(4)]).eval())
