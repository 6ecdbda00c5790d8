"""Attention on a processor by plain products, for many forward passes of one model.

PyTorch's fused attention for processors may take longer than the same attention written as batched
products over strips of queries, or half as long: it depends on the processor, the dtype and the
release of PyTorch. So both are timed once at the model's own shape, and the products are taken
where they are clearly faster. Scores and the softmax are float32 here, as in the
fused kernel; only the weights are rounded to the model's dtype before the last product, so losses
agree to rounding. Calls it was not made for (an explicit mask, dropout, a cache) go to the
original. Searches use it; what is reported of a finished model is computed as transformers does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depthprune.models.arithmetic import arithmetic
from depthprune.models.timed_choices import remembered

_STRIP = 128


@contextmanager
def fast_attention() -> Iterator[None]:
    """Inside the context, models that use transformers' `sdpa` attention attend by products.

    The attention of every such model in the process is meant; threads share it.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]

    # Named and ordered as transformers' own: models call it by position and by keyword.
    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **options: Any,
    ) -> Any:
        known = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal}
        if _is_plain(module, query, key, value, attention_mask, known | options):
            scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
            answer = causal_attention(query, key, value, scale)
            return answer.transpose(1, 2).contiguous(), None
        return original(module, query, key, value, attention_mask, **known, **options)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = original


CLEARLY = 1.2
"""How many times faster products must be, so that two runs on one machine do not choose apart."""

_CALLS = 6
"""Of each way, in turns; the fastest counts."""

_LENGTH = 512
"""Tokens of a window that is timed: one length, so that all calibrations of a model agree."""


@dataclass(frozen=True)
class AttentionHeads:
    """The shape of a model's attention.

    Attributes:
        query: Heads of the queries.
        key: Heads of the keys and values.
        width: Of one head.
    """

    query: int
    key: int
    width: int

    @classmethod
    def of(cls, config: Any) -> AttentionHeads:
        """As a config from transformers names them; a usual shape where it does not."""
        text = config.get_text_config()
        query = _number(text, "num_attention_heads", 8)
        key = _number(text, "num_key_value_heads", query)
        width = _number(text, "hidden_size", 64 * query) // query
        width = _number(text, "head_dim", max(1, width))
        return cls(query, key if query % key == 0 else query, width)


def _number(config: Any, name: str, otherwise: int) -> int:
    value = None
    with suppress(Exception):  # a config may refuse to name what differs between its blocks
        value = getattr(config, name, None)
    return value if type(value) is int and value > 0 else otherwise


@functools.cache
def products_are_faster(heads: AttentionHeads, dtype: torch.dtype) -> bool:
    """Whether attention by products takes clearly less of a processor's time than `sdpa`.

    Args:
        heads: The model's.
        dtype: What the model computes in.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    computed = arithmetic([torch.device("cpu")], str(dtype).removeprefix("torch."))
    question = f"attention by products: {heads}, {dtype}, {computed}"
    return remembered(question, lambda: _products_take_less(heads, dtype))


def _products_take_less(heads: AttentionHeads, dtype: torch.dtype) -> bool:
    """Time both on one thread, by the time that it is run: what else runs does not count."""
    query, key, value = (
        torch.ones(1, count, _LENGTH, heads.width, dtype=dtype)
        for count in (heads.query, heads.key, heads.key)
    )

    def fused() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=heads.key != heads.query
        )

    def products() -> Tensor:
        return causal_attention(query, key, value, heads.width**-0.5)

    threads = torch.get_num_threads()
    best = dict.fromkeys((fused, products), float("inf"))
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(_CALLS + 1):  # the first makes the kernels
                for way in best:
                    began = time.thread_time()
                    way()
                    best[way] = min(best[way], time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return best[fused] > CLEARLY * best[products]


# What transformers' own `sdpa` function takes and does not look at where there is no mask.
_UNUSED = {"position_ids", "use_cache", "cache_position", "sliding_window"}
_HARMLESS = {"scaling", "dropout", "is_causal"} | _UNUSED


def _is_plain(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, options: dict[str, Any]
) -> bool:
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return bool(
        mask is None
        and causal
        and not options.get("dropout")
        and all(value is None for name, value in options.items() if name not in _HARMLESS)
        and query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.bfloat16)
        and query.dtype == key.dtype == value.dtype
        and query.shape[2] == key.shape[2] == value.shape[2]
        and query.shape[1] % key.shape[1] == 0
        and key.shape[1] == value.shape[1]
    )


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax(scale · QKᵀ, causal) V, by products over strips of queries.

    Args:
        query: Shape (batch, heads, length, width).
        key: Shape (batch, key heads, length, width); the key heads divide the heads.
        value: Shape (batch, key heads, length, value width).
        scale: Factor of the scores.

    Returns:
        Shape (batch, heads, length, value width), in the dtype of `value`.
    """
    batch, heads, length, width = query.shape
    groups, shared = batch * key.shape[1], heads // key.shape[1]
    queries = (query.float() * scale).reshape(groups, shared, length, width)
    keys = key.float().transpose(-1, -2).reshape(groups, width, length)
    values = value.reshape(groups, length, -1)
    answer = value.new_empty(groups, shared, length, values.shape[-1])
    strip = min(_STRIP, length)
    scores = torch.empty(groups * shared * strip * length)
    future = torch.full((strip, strip), float("-inf")).triu(1)
    for first in range(0, length, strip):
        last = min(first + strip, length)
        rows = last - first
        part = scores[: groups * shared * rows * last].view(groups, shared * rows, last)
        torch.bmm(queries[:, :, first:last].reshape(groups, -1, width), keys[..., :last], out=part)
        part.view(groups, shared, rows, last)[..., first:] += future[:rows, :rows]
        torch.softmax(part, -1, out=part)
        seen = torch.bmm(part.to(value.dtype), values[:, :last])
        answer[:, :, first:last] = seen.view(groups, shared, rows, -1)
    return answer.view(batch, heads, length, -1)
