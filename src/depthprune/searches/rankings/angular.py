"""Angular: the k blocks in a row whose end is nearest their beginning."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.base import Method
from depthprune.searches.common.protocol import (
    Ask,
    Measure,
    Plan,
    Space,
)
from depthprune.searches.contiguous import windows


@dataclass(frozen=True)
class Angular(Method):
    """The window of least arccos(cos(h_l, h_{l+k}))/π, the states before and behind it.

    Source: Gromov et al. (arXiv 2403.17887), who take the last token's states; PruneMe.
    """

    method: ClassVar[str] = "angular"
    summary: ClassVar[str] = "the k blocks in a row that turn the hidden states least; one pass"

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        windows(space, self.method)
        return 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`. Ties go to the earlier window."""
        distances = yield Measure(self.method)
        found = {run: float(distances[run[0], space.k]) for run in windows(space, self.method)}
        removed = min(found, key=lambda r: (found[r] if math.isfinite(found[r]) else math.inf, r))
        yield Ask((removed,), keep=1)
        return removed
