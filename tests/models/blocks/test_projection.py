"""A head is taken apart where it is a product with a scale and a cap at most, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthprune.models.blocks.carried import hidden
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.blocks.projection import learn_finish, splits
from depthprune.models.blocks.replay import relative_difference
from tiny import tiny_model


def _final(anatomy: Any, tokens: Tensor) -> Tensor:
    inputs = anatomy.record(tokens)
    states = inputs.states
    for block in range(len(anatomy.blocks)):
        states = anatomy.call(block, states, inputs)
    return hidden(states)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("phi", {}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 7.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_are_the_models_own_logits(
    model_type: str, changes: dict[str, float], dtype: torch.dtype
) -> None:
    model = tiny_model(model_type, **changes).to(dtype)
    anatomy = find_anatomy(model)
    tokens = torch.randint(3, 300, (1, 24), generator=torch.Generator().manual_seed(0))
    states = _final(anatomy, tokens)
    projection = anatomy.head.projection
    assert projection is not None
    assert (projection.finish.cap is not None) == (model_type == "gemma2")
    with torch.inference_mode():
        own = anatomy.head(states)[0].float()
        rows = projection.rows(states[0], own.argmax(-1))
        middle = projection.vocabulary // 3
        parts = [rows.product(0, middle), rows.product(middle, projection.vocabulary)]
        found = torch.cat([rows.logits(part) for part in parts], dim=1)
    limit = 1e-5 if dtype == torch.float32 else 0.02
    assert relative_difference(found, own) <= limit
    torch.testing.assert_close(rows.exact, own.amax(-1), rtol=limit, atol=limit)
    assert torch.equal(rows.seen, found.gather(1, own.argmax(-1)[:, None])[:, 0])


class _Behind(nn.Module):
    """A head with something behind its product."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 40, bias=False)
        self.what = what

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.what(self.linear(states))
        return found


def _blocked(logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor([3]), float("-inf"))


@pytest.mark.parametrize(
    "what",
    [
        _blocked,
        lambda x: x + 1,
        lambda x: -x,
        lambda x: x.clamp(max=50.0),
        lambda x: x * torch.linspace(0.5, 1.0, 40),
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: torch.where(x > 0, x, 0.5 * x),
        lambda x: x[..., :20],
    ],
)
def test_any_other_function_is_left_to_the_model(what: Any) -> None:
    head = _Behind(what)
    with torch.inference_mode():
        assert learn_finish(head.linear, lambda: head(torch.ones(2, 16, 8))) is None


def test_the_constants_are_those_of_the_code() -> None:
    head = _Behind(lambda x: 30.0 * torch.tanh(x * 0.125 / 30.0))
    with torch.inference_mode():
        finish = learn_finish(head.linear, lambda: head(torch.ones(2, 16, 8)))
    assert finish is not None
    assert (finish.scale, finish.cap) == (pytest.approx(0.125, rel=1e-6), 30.0)


def test_a_map_of_another_kind_or_with_hooks_is_not_split() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert splits(nn.Linear(2, 2))
    assert not any(map(splits, (Own(2, 2), hooked, nn.Linear(2, 2, device="meta"), nn.Identity())))
