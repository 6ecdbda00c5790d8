"""Attention on a processor by plain products, for many forward passes of one model.

PyTorch's fused attention for processors takes longer than the same attention written as batched
products over strips of queries, which are what the processor's matrix units are for (nine heads,
512 tokens, bfloat16: 3.6 ms against 2.0 ms). Scores and the softmax are float32 here, as in the
fused kernel; only the weights are rounded to the model's dtype before the last product, so losses
agree to rounding. Calls it was not made for (an explicit mask, dropout, a cache) go to the
original. Searches use it; what is reported of a finished model is computed as transformers does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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
