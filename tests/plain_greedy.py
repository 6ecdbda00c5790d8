"""The slow reference of greedy generation."""

from __future__ import annotations

from typing import Any

import torch


@torch.inference_mode()
def greedy(module: Any, tokenizer: Any, prompt: list[int], new: int) -> list[int]:
    """The slow reference: the whole text again for every token, the most probable taken."""
    ids = list(prompt)
    for _ in range(new):
        logits = module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[len(prompt) :]
