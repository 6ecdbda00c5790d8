"""Negative log-likelihood: −log p(token | those before it), in nats."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_ROWS_BYTES = 8 << 20
"""Float32 logits taken at once: with a vocabulary of 49,152, rows of 8 MiB were seven times faster
than the whole chunk of 128 tokens, whose copies the allocator maps anew each time."""


@dataclass(frozen=True)
class NLL:
    """Mean NLL of the scored tokens; perplexity is its exponential.

    Source: arXiv 2604.24938, calibration (a); the loss of SLEB and of Shortened-LLM.
    """

    name: str = "nll"
    summary: str = "negative log-likelihood of the text, nats a token; exp of it is perplexity"
    has_perplexity: bool = True

    def token_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.token_losses`; computed in float32 whatever the logits' dtype."""
        rows = len(logits)
        if logits.device.type == "cpu":
            rows = max(1, _ROWS_BYTES // (4 * logits.shape[-1]))
        losses = [
            functional.cross_entropy(
                logits[first : first + rows].float(),
                targets[first : first + rows],
                reduction="none",
            )
            for first in range(0, len(logits), rows)
        ]
        return torch.cat(losses)
