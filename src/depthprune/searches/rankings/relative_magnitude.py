"""Relative magnitude: the blocks that add least to the hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.ranking import Ranking


@dataclass(frozen=True)
class RelativeMagnitude(Ranking):
    """Rank by mean ‖f(x)‖ / ‖x + f(x)‖, f(x) what a block adds to the state x.

    Source: Samragh et al., Weight subcloning (arXiv 2312.09299); arXiv 2604.24938's definitions.
    """

    method: ClassVar[str] = "relative-magnitude"
    summary: ClassVar[str] = "the blocks that add least to the hidden states; one pass"
