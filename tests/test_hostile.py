"""Hostile arithmetic is what AMX and CUDA do: a row's product follows the shape of its call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hostile import HostileArithmetic, cut, hostile_arithmetic
from tiny import tiny_model

WIDTH = 48


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _attention(x: Tensor) -> Tensor:
    heads = x.view(x.shape[0], -1, 4, WIDTH // 4).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2)


WEIGHT = _drawn(WIDTH, WIDTH, seed=1)

# Each maps rows of shape (batch, 6, WIDTH), every batch item for itself.
PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, WEIGHT.to(x.dtype), WEIGHT[0].to(x.dtype)),
    "linear without bias": lambda x: F.linear(x, WEIGHT.to(x.dtype)),
    "matmul": lambda x: torch.matmul(x, WEIGHT.to(x.dtype)),
    "@": lambda x: x @ WEIGHT.to(x.dtype),
    "mm": lambda x: torch.mm(x.flatten(0, 1), WEIGHT.to(x.dtype)),
    "addmm": lambda x: torch.addmm(WEIGHT[0].to(x.dtype), x.flatten(0, 1), WEIGHT.to(x.dtype)),
    "bmm": lambda x: torch.bmm(x, WEIGHT.to(x.dtype).expand(len(x), -1, -1)),
    "bmm into": lambda x: torch.bmm(
        x, WEIGHT.to(x.dtype).expand(len(x), -1, -1), out=torch.empty_like(x)
    ),
    "baddbmm": lambda x: torch.baddbmm(x, x, WEIGHT.to(x.dtype).expand(len(x), -1, -1)),
    "einsum": lambda x: torch.einsum("bte,ef->btf", x, WEIGHT.to(x.dtype)),
    "conv1d": lambda x: F.conv1d(
        x.transpose(1, 2), WEIGHT[:, None, :4].to(x.dtype), groups=WIDTH, padding=3
    ),
    "attention": _attention,
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_row_differs_between_calls_of_other_row_counts_and_not_of_the_same(
    name: str, inference: bool, hostile: HostileArithmetic
) -> None:
    product = PRODUCTS[name]
    for dtype, limit in ((torch.bfloat16, 3e-2), (torch.float32, 1e-6)):
        one, others = _drawn(1, 6, WIDTH).to(dtype), _drawn(2, 6, WIDTH, seed=2).to(dtype)
        with torch.inference_mode(inference):
            alone, again = product(one), product(one.clone())
            beside = product(torch.cat([one, others]))
            elsewhere = product(torch.cat([one, -others]))
        size = len(alone) if name in ("mm", "addmm") else 1
        assert torch.equal(alone, again)
        assert torch.equal(beside[:size], elsewhere[:size])
        assert not torch.equal(alone, beside[:size])
        apart = (alone - beside[:size]).abs().max() / alone.abs().max()
        assert apart <= limit


def test_neighbouring_row_counts_cut_a_sum_far_from_each_other() -> None:
    assert all(abs(cut(100, rows) - cut(100, rows + 1)) > 30 for rows in range(1, 500))


def test_restless_arithmetic_gives_another_number_at_each_call(
    restless: HostileArithmetic,
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        rows = _drawn(6, WIDTH).to(dtype)
        first, second = (rows @ WEIGHT.to(dtype) for _ in range(2))
        assert not torch.equal(first, second)


def test_gradients_are_those_of_ordinary_arithmetic_but_for_rounding() -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    layer(_drawn(5, WIDTH)).square().sum().backward()
    plain = layer.weight.grad
    layer.weight.grad = None
    with hostile_arithmetic() as mode:
        layer(_drawn(5, WIDTH)).square().sum().backward()
        assert mode.products == 2
    assert plain is not None
    assert layer.weight.grad is not None
    assert not torch.equal(layer.weight.grad, plain)
    torch.testing.assert_close(layer.weight.grad, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "mamba"])
def test_a_models_logits_differ_between_batches(model_type: str) -> None:
    tokens = torch.arange(3, 19).unsqueeze(0)
    for dtype, least, most in ((torch.bfloat16, 1e-4, 0.5), (torch.float32, 1e-9, 1e-4)):
        model = tiny_model(model_type, dtype=dtype)
        with torch.inference_mode():
            plain = model(input_ids=tokens, use_cache=False).logits
            with hostile_arithmetic():
                alone = model(input_ids=tokens, use_cache=False).logits
                beside = model(input_ids=tokens.repeat(3, 1), use_cache=False).logits[:1]
        for other in (plain, beside):
            apart = ((alone - other).abs().max() / alone.abs().max()).item()
            assert least < apart < most
