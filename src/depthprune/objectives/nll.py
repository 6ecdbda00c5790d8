"""Negative log-likelihood: −log p(token | those before it), in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from depthprune.objectives.base import TokenObjective
from depthprune.objectives.rows import rows_at_once

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NLL(TokenObjective):
    """Mean NLL of the scored tokens; perplexity is its exponential.

    Source: arXiv 2604.24938, calibration (a); the loss of SLEB and of Shortened-LLM.
    """

    summary: ClassVar[str] = (
        "negative log-likelihood of the text, nats a token; exp of it is perplexity"
    )
    has_perplexity: ClassVar[bool] = True
    name: ClassVar[str] = "nll"

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`; computed in float32 whatever the logits' dtype."""
        return token_nll(outputs, targets)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(logits)[target], a row at a time; shapes (n, vocabulary), (n,) to (n,)."""
    import torch
    from torch.nn import functional

    losses = [
        functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
        for part in rows_at_once(logits)
    ]
    return torch.cat(losses)
