"""Negative log-likelihood: −log p(token | those before it), in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from depthprune.objectives.base import TokenObjective
from depthprune.objectives.rows import rows_at_once
from depthprune.objectives.tiles import DenseTiles, LogSumExp, OwnLogits, TileLosses

if TYPE_CHECKING:
    from torch import Tensor


class NLLTiles(TileLosses):
    """−log softmax(logits)[target]; see `TileLosses`."""

    def __init__(self) -> None:
        self._all = LogSumExp()

    def see(self, logits: Tensor) -> None:
        """See `TileLosses.see`."""
        self._all.add(logits)

    def losses(self, own: OwnLogits) -> Tensor:
        """See `TileLosses.losses`."""
        # What is confident must not keep a rounded logit on one side of the difference only.
        self._all.replace(own.seen, own.exact)
        return self._all.value - own.exact


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
    passes: ClassVar[int] = 1

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`; computed in float32 whatever the logits' dtype."""
        return token_nll(outputs, targets)

    def dense_tiles(self) -> DenseTiles | None:
        """See `Tiled.dense_tiles`."""
        return None

    def tile_losses(self, dense: DenseTiles | None) -> TileLosses:
        """See `Tiled.tile_losses`."""
        return NLLTiles()


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(logits)[target], a row at a time; shapes (n, vocabulary), (n,) to (n,)."""
    import torch
    from torch.nn import functional

    losses = [
        functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
        for part in rows_at_once(logits)
    ]
    return torch.cat(losses)
