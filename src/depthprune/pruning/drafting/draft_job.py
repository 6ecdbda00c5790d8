"""What `--as-draft` asks for; torch is not loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DraftJob:
    """What `--as-draft` asks for.

    Attributes:
        cost_ratio: The share of decoding that the blocks take; None has it timed.
    """

    cost_ratio: float | None = None
