"""Cosine distance between the hidden states of the dense and the pruned model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from depthprune.objectives.base import Reads, TokenObjective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cosine(TokenObjective):
    """1 − cos(h_dense, h_pruned) behind the last block, before the final norm; no head is run.

    Source: block influence (ShortGPT, arXiv 2403.03853), taken at the end of the model instead of
    around one block. It is 0 for the dense model and at most 2.
    """

    name: ClassVar[str] = "cosine"
    summary: ClassVar[str] = "1 − cosine to the dense model's final hidden state; runs no head"
    reads: ClassVar[Reads] = "states"
    compares: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 2.0)

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`; computed in float32."""
        from torch.nn import functional

        if dense is None:
            raise ValueError("cosine compares with the dense model's states")
        return 1.0 - functional.cosine_similarity(outputs.float(), dense.float(), dim=-1)
