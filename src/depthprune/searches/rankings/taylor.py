"""Taylor: the blocks whose gate the loss depends on least, to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.ranking import Ranking


@dataclass(frozen=True)
class Taylor(Ranking):
    """Rank by |∂L/∂g_i| at a gate g_i = 1 on what block i adds, L the NLL.

    Source: arXiv 2604.24938's definitions; Shortened-LLM's Taylor criterion with gates on blocks in
    place of weights.
    """

    method: ClassVar[str] = "taylor"
    summary: ClassVar[str] = "the blocks that the loss depends on least, by one backward pass"
