"""How sure a race must be; apart from how that is decided, which needs numpy."""

from __future__ import annotations

from dataclasses import dataclass

from depthprune.errors import UsageError


@dataclass(frozen=True)
class Racing:
    """How sure a race must be.

    Attributes:
        delta: Chance that an ask drops a candidate it should have kept, by more than a tie.
        tolerance: Differences within this share of the loss are ties.
    """

    delta: float = 0.05
    tolerance: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise UsageError(f"--delta: expected a chance between 0 and 1, got {self.delta:g}")
        if not 0 <= self.tolerance < 1:
            raise UsageError(
                f"--tolerance: expected a share from 0 to below 1, got {self.tolerance:g}"
            )
