"""Kullback–Leibler divergence between the dense and the pruned model's next-token distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from depthprune.bounds import check_bounds
from depthprune.objectives.base import TokenObjective
from depthprune.objectives.rows import rows_at_once

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class KL(TokenObjective):
    """Mean KL over tokens, in nats; 0 for the dense model itself.

    Forward is KL(dense ‖ pruned), which asks for everything the dense model would say; reverse is
    KL(pruned ‖ dense), which forgives what is forgotten. With `top`, all tokens but the dense
    model's `top` most probable count as one: a lower bound of the exact value that grows with
    `top` (by the data-processing inequality).

    Source: EvoPress (arXiv 2410.14649), whose default is forward; arXiv 2604.24938.

    Attributes:
        direction: `forward` or `reverse`.
        top: How many tokens are told apart; 0 is all of them.
    """

    direction: Direction = "forward"
    top: Annotated[int, Field(ge=0, description="0 (all tokens) or more")] = 0

    summary: ClassVar[str] = (
        "divergence from the dense model's next-token distribution, nats a token; "
        "direction=forward|reverse, top=K"
    )
    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_bounds("objective kl", self)

    @property
    def name(self) -> str:
        """With the parameters that are not the defaults."""
        chosen = []
        if self.direction != "forward":
            chosen.append(f"direction={self.direction}")
        if self.top:
            chosen.append(f"top={self.top}")
        return ":".join(["kl", ",".join(chosen)] if chosen else ["kl"])

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`; computed in float32 whatever the logits' dtype."""
        if dense is None:
            raise ValueError("kl compares with the dense model's logits")
        import torch

        losses = [self._rows(outputs[part], dense[part]) for part in rows_at_once(outputs)]
        return torch.cat(losses)

    def _rows(self, logits: Tensor, dense: Tensor) -> Tensor:
        import torch

        ours, theirs = logits.float().log_softmax(-1), dense.float().log_softmax(-1)
        if 0 < self.top < logits.shape[-1]:
            ours, theirs = _coarse(ours, theirs, self.top)
        p, q = (theirs, ours) if self.direction == "forward" else (ours, theirs)
        # Where p is 0 the term is 0, whatever q is.
        terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
        # Rounding may leave a divergence of nothing a hair below it.
        return terms.sum(-1).clamp(min=0.0)


def _coarse(ours: Tensor, theirs: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the dense model's `top` tokens, and of all others together."""
    import torch

    chosen = theirs.topk(top, dim=-1).indices
    return tuple(  # type: ignore[return-value]
        torch.cat([log.gather(-1, chosen), _rest(log, chosen)], dim=-1) for log in (ours, theirs)
    )


def _rest(log: Tensor, chosen: Tensor) -> Tensor:
    others = log.scatter(-1, chosen, float("-inf"))
    return others.logsumexp(-1, keepdim=True)
