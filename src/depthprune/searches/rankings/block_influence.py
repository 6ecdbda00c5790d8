"""Block influence: the blocks that turn the hidden states least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.ranking import Ranking


@dataclass(frozen=True)
class BlockInfluence(Ranking):
    """Rank by 1 − mean cos(h_in, h_out), the states before and behind a block.

    Source: ShortGPT (arXiv 2403.03853).
    """

    method: ClassVar[str] = "block-influence"
    summary: ClassVar[str] = "the blocks that turn the hidden states least; one pass"
