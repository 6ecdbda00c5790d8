"""Token ids to try a model on: random ones, without those that stand for a picture or a sound."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

_PLACEHOLDER = re.compile(
    r"(?:image|img|video|audio|vision|speech|protein|patch|column|boi|eoi|boa|eoa)"
    r".*_(?:id|index)$"
)


def probe_tokens(module: nn.Module, shape: tuple[int, int], seed: int, first: int = 3) -> Tensor:
    """Random token ids that a model of several modalities reads as text.

    Args:
        module: A causal language model from transformers.
        shape: Windows and their length.
        seed: Of the draw.
        first: The lowest id to draw; `<unk>`, `<s>` and `</s>` are often the first three.

    Returns:
        Token ids, int64, on the processor.
    """
    vocabulary = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(first, vocabulary, shape, generator=generator)
    reserved = _placeholders(module)
    plain = next((i for i in range(first, vocabulary) if i not in reserved), first)
    for token in reserved:
        ids[ids == token] = plain
    return ids


def _placeholders(module: Any) -> set[int]:
    config = getattr(module, "config", None)
    stated = config.to_dict() if config is not None else {}
    return {
        value
        for name, value in stated.items()
        if isinstance(value, int) and not isinstance(value, bool) and _PLACEHOLDER.match(name)
    }
