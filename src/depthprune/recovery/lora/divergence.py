"""How far a student's next-token distributions are from a teacher's, and the way back.

Logits of a few hundred tokens are made, compared, and turned to a gradient of the states before
the head at once, so that no tensor of tokens × vocabulary is ever held, forward or back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from depthprune.models.blocks.head import Head
from depthprune.models.devices import wide_sum
from depthprune.recovery.lora.unfrozen import placed

_LOGITS_BYTES = {"cpu": 32 << 20}
_LOGITS_BYTES_ELSEWHERE = 512 << 20


def divergence(
    head: Head,
    states: Tensor,
    dense: Tensor,
    targets: Tensor,
    nll: float,
    trained: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The mean loss over tokens: (1 − nll) · KL(teacher ‖ student) + nll · (−log student[target]).

    Args:
        head: Turns states into logits.
        states: The student's, behind the last block, shape (tokens, width).
        dense: The teacher's, of the same shape.
        targets: Next tokens, shape (tokens,), int64.
        nll: Share of the text's own negative log-likelihood.
        trained: What the student's head has in place of its parameters, by their names in the
            model.

    Returns:
        A scalar in float32, nats a token, with a gradient towards `states` and what is trained.
    """
    apply: Any = _Divergence.apply
    trained = trained or {}
    loss: Tensor = apply(states, dense, targets, head, nll, tuple(trained), *trained.values())
    return loss


@torch.no_grad()
def losses(
    head: Head,
    states: Tensor,
    dense: Tensor,
    targets: Tensor,
    trained: Mapping[str, Tensor] | None = None,
) -> tuple[float, float]:
    """The mean KL and the mean negative log-likelihood, without a gradient; see `divergence`."""
    totals = torch.zeros(2, dtype=torch.float64)
    for first in range(0, len(states), rows := _rows(head, states)):
        part = slice(first, first + rows)
        theirs = _log_probabilities(_logits(head, dense[part]))
        with placed(head.module, trained or {}):
            ours = _log_probabilities(_logits(head, states[part]))
        totals += _sums(ours, theirs, targets[part].to(ours.device))
    kl, own = (totals / len(states)).tolist()
    return kl, own


class _Divergence(torch.autograd.Function):
    """Both losses and their gradient in one pass over the chunks.

    With q the student's and p the teacher's probabilities and y the target's indicator, the
    gradient towards the student's logits is q − (1 − nll) p − nll y.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        dense: Tensor,
        targets: Tensor,
        head: Head,
        nll: float,
        names: tuple[str, ...],
        *trained: Tensor,
    ) -> Tensor:
        found = [torch.empty_like(states), *(torch.zeros_like(each) for each in trained)]
        leaves = [each.detach().requires_grad_() for each in trained]
        totals = torch.zeros(2, dtype=torch.float64)
        for first in range(0, len(states), rows := _rows(head, states)):
            part = slice(first, first + rows)
            theirs = _log_probabilities(_logits(head, dense[part]))
            own = states[part].detach().requires_grad_()
            with torch.enable_grad(), placed(head.module, dict(zip(names, leaves, strict=True))):
                logits = _logits(head, own)
            ours = _log_probabilities(logits.detach())
            at = targets[part].to(ours.device)
            totals += _sums(ours, theirs, at)
            slope = ours.exp_().sub_(theirs.exp_().mul_(1.0 - nll))
            slope.scatter_add_(1, at[:, None], torch.full_like(slope[:, :1], -nll))
            slope /= len(states)
            found[0][part], *more = torch.autograd.grad(
                logits, [own, *leaves], slope.to(logits.dtype)
            )
            for total, gradient in zip(found[1:], more, strict=True):
                total += gradient
        ctx.save_for_backward(*found)
        kl, text = (totals / len(states)).tolist()
        return torch.tensor((1.0 - nll) * kl + nll * text, device=states.device)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *more = (each * slope.to(each.dtype) for each in ctx.saved_tensors)
        return gradient, None, None, None, None, None, *more


def _logits(head: Head, states: Tensor) -> Tensor:
    return head.with_gradient(states.unsqueeze(0))[0]


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def _sums(ours: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
    """Σ KL and Σ −log student[target] over a chunk; what the teacher never says costs nothing."""
    terms = torch.where(theirs.isneginf(), 0.0, theirs.exp() * (theirs - ours))
    own = -ours.gather(1, targets[:, None])
    return torch.stack([wide_sum(terms), wide_sum(own)]).cpu()


def _rows(head: Head, states: Tensor) -> int:
    """Tokens of a chunk."""
    vocabulary = head.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    budget = _LOGITS_BYTES.get(states.device.type, _LOGITS_BYTES_ELSEWHERE)
    return max(1, min(1024, budget // (4 * int(vocabulary))))
