"""Attention by products is attention, whoever calls it and however."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from depthprune.models import attention
from depthprune.models.arithmetic import arithmetic
from depthprune.models.attention import (
    AttentionHeads,
    causal_attention,
    fast_attention,
    products_are_faster,
)
from tiny import tiny_config


def _drawn(heads: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, heads, length, 16, generator=generator)


QKV = (_drawn(4, 150, 0), _drawn(2, 150, 1), _drawn(2, 150, 2))


class _Module:
    num_key_value_groups = 2
    is_causal = True
    training = False


CALLS: dict[str, Callable[[Any], Any]] = {
    "by position": lambda attend: attend(_Module(), *QKV, None, 0.0, 0.25, True),
    "the mask by keyword": lambda attend: attend(
        _Module(), *QKV, attention_mask=None, dropout=0.0, scaling=0.25
    ),
    "all by keyword": lambda attend: attend(
        module=_Module(),
        query=QKV[0],
        key=QKV[1],
        value=QKV[2],
        attention_mask=None,
        scaling=0.25,
        sliding_window=None,
    ),
    "with a mask": lambda attend: attend(
        _Module(), *QKV, attention_mask=torch.zeros(2, 1, 150, 150), scaling=0.25
    ),
}


@pytest.mark.parametrize("how", CALLS)
def test_it_is_called_as_transformers_own_is(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    products = causal_attention

    def noted(*args: Any) -> Tensor:
        seen.append(args[0])
        return products(*args)

    monkeypatch.setattr(attention, "causal_attention", noted)
    expected, _ = CALLS[how](ALL_ATTENTION_FUNCTIONS["sdpa"])
    with fast_attention():
        found, _ = CALLS[how](ALL_ATTENTION_FUNCTIONS["sdpa"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == (how != "with a mask")


@pytest.mark.parametrize(("products", "taken"), [(0.5, True), (0.9, False), (2.0, False)])
def test_products_are_taken_where_they_are_clearly_faster(
    products: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def passing(seconds: float) -> Callable[..., Tensor]:
        def run(*args: Any, **options: Any) -> Tensor:
            clock[0] += seconds
            return torch.empty(0)

        return run

    arithmetic([torch.device("cpu")], "float32")  # known from here on, of the true attention
    monkeypatch.setattr(attention.time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(attention, "causal_attention", passing(products))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", passing(1.0))
    products_are_faster.cache_clear()
    threads = torch.get_num_threads()
    assert products_are_faster(AttentionHeads(4, 2, 16), torch.float32) is taken
    assert not products_are_faster(AttentionHeads(4, 2, 16), torch.float16)
    assert torch.get_num_threads() == threads
    products_are_faster.cache_clear()


def test_the_shape_is_the_models_own() -> None:
    assert AttentionHeads.of(tiny_config("llama")) == AttentionHeads(2, 2, 16)
    assert AttentionHeads.of(tiny_config("llava")).query >= 1
    assert AttentionHeads.of(tiny_config("mamba")).width >= 1


@pytest.mark.skipif("gemma4_text" not in CONFIG_MAPPING, reason="not known yet")
def test_a_config_that_does_not_name_one_width_has_a_usual_one() -> None:
    assert AttentionHeads.of(tiny_config("gemma4_text")).width >= 1
