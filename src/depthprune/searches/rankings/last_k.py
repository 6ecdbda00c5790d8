"""Last-k: the last blocks that may go. A control."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from depthprune.searches.common.base import Method
from depthprune.searches.common.protocol import Plan, Space
from depthprune.searches.common.ranking import in_order


@dataclass(frozen=True)
class LastK(Method):
    """The last k blocks, whatever they do: depth pruning without a calibration."""

    method: ClassVar[str] = "last-k"
    summary: ClassVar[str] = "a control: the last k blocks; one evaluation"
    grows: ClassVar[bool] = True

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        return (yield from in_order(space, list(reversed(space.free))))
