"""Which size makes the best draft of the original (`--as-draft`)."""

from __future__ import annotations

from pydantic import Field

from depthprune.manifest.record import Record


class DraftPoint(Record):
    """What one size is worth as a draft of the original."""

    k: int
    removed: list[int]
    acceptance: float = Field(
        description="The chance that a token of the draft is accepted, on held-out windows."
    )
    cost: float = Field(description="Of a token of the draft, in tokens of the original.")
    length: int = Field(description="Tokens of a draft for which it is fastest.")
    speedup: float = Field(description="Expected, of the original's decoding.")


class DraftRecord(Record):
    """Which size makes the best draft of the original."""

    temperature: float = Field(description="Of the sampling; 0 is greedy.")
    measured: bool = Field(description="Whether decoding was timed; else --cost-ratio was given.")
    chosen: int = Field(description="The k that was taken.")
    points: list[DraftPoint] = Field(description="By size.")

    @property
    def best(self) -> DraftPoint:
        """The chosen size."""
        return next(point for point in self.points if point.k == self.chosen)
