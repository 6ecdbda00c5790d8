"""Which tokens are treated apart: those whose states are massive.

The first token of a window and a few others carry activations tens to thousands of times the
usual; a least-squares fit would be of them alone. A token is apart if the norm of its state, in
the dense model behind the run or in the pruned model before the kept block, is above six times
the median. The norms of other tokens stay within about twice the median in the models we looked
at.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

MASSIVE = 6.0
"""Times the median norm."""


def massive(before: Iterable[Tensor], behind: Iterable[Tensor]) -> list[Tensor]:
    """Which tokens are apart.

    Args:
        before: States of the pruned model before the kept block, one tensor a batch, each of
            shape (batch, length, width).
        behind: States of the dense model behind the run, alike.

    Returns:
        One bool tensor a batch, flat, of batch × length tokens, held by the processor.
    """
    apart: list[Tensor] | None = None
    for states in (before, behind):
        norms = [each.float().norm(dim=-1).flatten().cpu() for each in states]
        limit = MASSIVE * torch.cat(norms).median()
        above = [each > limit for each in norms]
        apart = above if apart is None else [a | b for a, b in zip(apart, above, strict=True)]
    return apart or []
