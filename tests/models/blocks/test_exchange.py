"""What blocks hand on besides hidden states is seen, carried and given as the model does it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.anatomy import (
    Anatomy,
    MissingError,
)
from depthprune.models.blocks.carried import (
    Carried,
    State,
    hidden,
)
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.blocks.replay import relative_difference
from tiny import tiny_model
from versions import OLD

HANDED: dict[str, tuple[int, int | str]] = {
    "glm_moe_dsa": (1, "prev_topk_indices"),
    "hy_v4": (1, "prev_topk_indices"),
    "zaya": (1, 1),
}
"""Which output of a block the next is given, and as which argument: the reference's own list."""

TYPES = {
    "gemma3n_text": [(0,), (4,), (1, 5)],
    "gemma4_text": [(0,), (1,), (2, 4), (3, 5)],
    "gemma4": [(1,), (4, 5)],
    "glm_moe_dsa": [(1,), (3,), (2, 3), (4, 5)],
    "hy_v4": [(1,), (3,), (2, 3), (4, 5)],
    "xlnet": [(0,), (2, 5)],
    "zaya": [(1,), (2, 3), (5,)],
    "deepseek_v4": [(1,), (2, 5)],
}
"""Sets without which the model itself still runs."""


def _tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 290, (batch, length), generator=torch.Generator().manual_seed(seed))


@contextmanager
def _passing_over(anatomy: Anatomy, model_type: str, removed: tuple[int, ...]) -> Any:
    """The slow reference: transformers' own forward, with `forward` of some blocks replaced."""
    if OLD and model_type == "gemma3n_text":
        pytest.skip("before transformers 5 its blocks take other arguments")

    def forward(*args: Any, **kwargs: Any) -> Any:
        if model_type == "xlnet":
            return args[0], args[1]
        if model_type not in HANDED:
            return args[0]
        _, where = HANDED[model_type]
        return args[0], args[where] if isinstance(where, int) else kwargs[where]

    blocks = [anatomy.blocks.modules[block] for block in removed]
    for block in blocks:
        block.forward = forward
    try:
        yield anatomy.module
    finally:
        for block in blocks:
            del block.forward


def _replayed(anatomy: Anatomy, tokens: Tensor, removed: tuple[int, ...]) -> Tensor:
    inputs = anatomy.record(tokens)
    state = inputs.states
    for block in range(len(anatomy.blocks)):
        if block not in removed:
            state = anatomy.call(block, state, inputs)
    return anatomy.head(hidden(state))


@pytest.mark.parametrize("model_type", TYPES)
def test_replaying_blocks_gives_what_the_model_gives_with_others_passed_over(
    model_type: str,
) -> None:
    anatomy = find_anatomy(tiny_model(model_type))
    tokens = _tokens(3, 22)
    for removed in [(), *TYPES[model_type]]:
        with torch.inference_mode(), _passing_over(anatomy, model_type, removed) as model:
            theirs = model(input_ids=tokens, use_cache=False).logits
        assert relative_difference(_replayed(anatomy, tokens, removed), theirs) <= 1e-5


@pytest.mark.parametrize("model_type", TYPES)
def test_the_masked_model_is_the_model_with_blocks_passed_over(model_type: str) -> None:
    anatomy = find_anatomy(tiny_model(model_type))
    tokens = _tokens(2, 20)
    removed = TYPES[model_type][-1]
    with torch.inference_mode():
        with _passing_over(anatomy, model_type, removed) as model:
            theirs = model(input_ids=tokens, use_cache=False).logits
        with anatomy.masked(removed) as model:
            ours = model(input_ids=tokens, use_cache=False).logits
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("model_type", TYPES)
def test_states_of_several_prefixes_share_a_call(model_type: str) -> None:
    anatomy = find_anatomy(tiny_model(model_type))
    inputs = anatomy.record(_tokens(2, 20))
    first: State = inputs.states
    second: State = inputs.states
    for block in range(len(anatomy.blocks)):
        apart = [anatomy.call(block, state, inputs) for state in (first, second)]
        together = anatomy.call_each(block, [first, second, first], inputs)
        for ours, theirs in zip(together, [*apart, apart[0]], strict=True):
            assert relative_difference(hidden(ours), hidden(theirs)) <= 1e-5
            assert isinstance(ours, Carried) == isinstance(theirs, Carried)
        first = together[0]
        second = second if block == 1 else together[1]


def test_a_llamas_state_is_a_plain_tensor() -> None:
    anatomy = find_anatomy(tiny_model("llama"))
    assert anatomy.blocks.exchange is None
    inputs = anatomy.record(_tokens(2, 20))
    assert type(inputs.states) is Tensor
    assert type(anatomy.call(0, inputs.states, inputs)) is Tensor
    assert anatomy.state_bytes(16) == anatomy.state_bytes(4096) == 32 * 4


def test_a_state_is_as_large_as_everything_in_it() -> None:
    streams = find_anatomy(tiny_model("deepseek_v4"))
    assert streams.state_bytes(16) == 2 * 32 * 4
    shared = find_anatomy(tiny_model("gemma4_text"))
    inputs = shared.record(_tokens(2, 40))
    state = inputs.states
    for block in range(len(shared.blocks)):
        state = shared.call(block, state, inputs)
    assert isinstance(state, Carried)
    kept = [t for pair in state.rest["store 0"].values() for t in pair]
    taken = sum(t.numel() * t.element_size() for t in (state.states, *kept))
    assert len(kept) == 4
    assert shared.state_bytes(40) == taken // 80


def test_indices_of_every_token_for_every_token_are_counted_so() -> None:
    anatomy = find_anatomy(tiny_model("glm_moe_dsa"))
    assert anatomy.state_bytes(16) == 32 * 4 + 16 * 4
    assert anatomy.state_bytes(4096) == 32 * 4 + 4096 * 4


def test_a_block_without_what_it_reads_is_refused_by_name() -> None:
    anatomy = find_anatomy(tiny_model("gemma4_text"))
    inputs = anatomy.record(_tokens(2, 20))
    state = inputs.states
    for block in (0, 1, 2, 4):
        state = anatomy.call(block, state, inputs)
    with pytest.raises(MissingError, match="block 5 reads what a block before it writes"):
        anatomy.call(5, state, inputs)


class _Block(nn.Module):
    """Adds a projection of its input, and something of what it is told besides."""

    def __init__(self, step: Callable[[int, Tensor, Any], tuple[Tensor, Any]], place: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)
        self.step, self.place = step, place

    def forward(self, states: Tensor, told: Any = None) -> Any:
        extra, given = self.step(self.place, states, told)
        answer = states + torch.tanh(self.mlp(states)) + extra
        return answer if given is None else (answer, given)


class _Model(nn.Module):
    """Four blocks that are told of one another as a test has it."""

    def __init__(self, step: Any, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList(_Block(step, place) for place in range(4))
        self.head = nn.Linear(8, 64)
        self.make = make

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        states = self.embed(input_ids)
        told = self.make(states)
        for block in self.layers:
            answer = block(states, told=told)
            states, told = answer if isinstance(answer, tuple) else (answer, told)

        class Output:
            logits = self.head(states)

        return Output()


class _Cache:
    """Keeps tensors as caches do, in attributes and lists."""

    def __init__(self) -> None:
        self.layers: list[Tensor] = []
        self.last: Tensor | None = None


def _reads_a_dict(place: int, states: Tensor, told: Any) -> tuple[Tensor, None]:
    before = told.get("kv", (states, states))[1]
    if place % 2 == 0:
        told["kv"] = (states.roll(1, -1), 2 * states)
    return before, None


def _reads_a_list(place: int, states: Tensor, told: list[Tensor]) -> tuple[Tensor, None]:
    before = sum(told, torch.zeros_like(states))
    told.append(states.roll(place, -1))
    return before, None


def _reads_an_object(place: int, states: Tensor, told: _Cache) -> tuple[Tensor, None]:
    before = told.last if told.last is not None else states
    told.last = states * 3
    told.layers.append(states)
    return before + told.layers[0], None


def _writes_a_tensor(place: int, states: Tensor, told: Tensor) -> tuple[Tensor, None]:
    before = told.clone()
    told += states
    return before, None


def _hands_on_a_pair(place: int, states: Tensor, told: Any) -> tuple[Tensor, Any]:
    before = told[0] if told is not None else torch.zeros_like(states)
    return before, (states * 2, told)


WAYS: dict[str, tuple[Any, Callable[[Tensor], Any]]] = {
    "a dict": (_reads_a_dict, lambda _: {}),
    "a dict of its own class": (_reads_a_dict, lambda _: UserDict()),
    "a list": (_reads_a_list, lambda _: []),
    "an object": (_reads_an_object, lambda _: _Cache()),
    "a tensor": (_writes_a_tensor, torch.zeros_like),
    "a tuple": (_hands_on_a_pair, lambda _: None),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_telling_later_blocks_is_followed(way: str) -> None:
    model = _Model(*WAYS[way]).eval()
    anatomy = find_anatomy(model)
    tokens = torch.randint(0, 64, (3, 18), generator=torch.Generator().manual_seed(1))
    for removed in [(), (0,), (1,), (2,), (0, 3), (1, 2)]:
        with torch.inference_mode(), anatomy.masked(removed):
            theirs = model(input_ids=tokens).logits
        assert relative_difference(_replayed(anatomy, tokens, removed), theirs) <= 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_what_one_prefix_writes_no_other_reads(way: str) -> None:
    anatomy = find_anatomy(_Model(*WAYS[way]).eval())
    inputs = anatomy.record(torch.zeros(2, 10, dtype=torch.long))
    first = anatomy.call(0, inputs.states, inputs)
    before = hidden(anatomy.call(1, first, inputs))
    anatomy.call(2, anatomy.call(1, first, inputs), inputs)
    assert torch.equal(hidden(anatomy.call(1, first, inputs)), before)
    assert torch.equal(hidden(anatomy.call(0, inputs.states, inputs)), hidden(first))


def test_a_block_that_writes_into_its_own_input_leaves_the_prefixs_state_alone() -> None:
    def step(place: int, states: Tensor, told: Any) -> tuple[Tensor, None]:
        states += 1.0
        return states.roll(1, -1), None

    anatomy = find_anatomy(_Model(step, lambda _: None).eval())
    inputs = anatomy.record(torch.zeros(2, 10, dtype=torch.long))
    before = hidden(inputs.states).clone()
    anatomy.call(0, inputs.states, inputs)
    assert torch.equal(hidden(inputs.states), before)


def test_what_is_told_behind_the_callers_back_is_refused() -> None:
    class Leaky(_Model):
        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
            states = self.embed(input_ids)
            extra = torch.zeros_like(states)
            for block in self.layers:
                after = block(states + extra)
                states, extra = after, 0.5 * (after - states)

            class Output:
                logits = self.head(states)

            return Output()

    with pytest.raises(ModelError, match="what no call of them shows"):
        find_anatomy(Leaky(lambda *_: (0.0, None), lambda _: None).eval())
