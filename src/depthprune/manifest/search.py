"""The search: what it was asked, how it went, what it spent, and how sure it was."""

from __future__ import annotations

from pydantic import Field

from depthprune.manifest.record import Record


class Step(Record):
    """One step of a search: the best set so far against what was spent."""

    evaluations: float
    block_tokens: int
    removed: list[int]
    loss: float


class CostRecord(Record):
    """What the search spent: counted, not estimated, except for `seconds`."""

    evaluations: float = Field(
        description="Removed sets scored, one on half of the windows counting half; the dense "
        "model apart."
    )
    block_tokens: int
    head_tokens: int
    plain_block_tokens: int = Field(
        description="What plain forwards for the sets and windows computed would cost."
    )
    recalled: int = Field(default=0, description="Losses of a set on a window that a memo gave.")
    seconds: float


class RacingRecord(Record):
    """How sure the search was of each choice; null where every set was scored on every window."""

    delta: float = Field(description="Chance that an ask drops a set that it should have kept.")
    tolerance: float = Field(description="Losses within this share of each other are ties.")


class RoundingRecord(Record):
    """What rounding alone does to losses, measured on a few windows before the search."""

    share: float = Field(
        description="By how much it changes a difference of two sets' losses on the whole "
        "calibration, as a share of the loss. Differences below it are ties."
    )
    window: float = Field(description="By how much it changed one window's loss, at most.")
    against: str = Field(description="What it was compared with.")
    windows: int = Field(description="How many were tried.")


class SearchRecord(Record):
    """The search and how it went. With racing, the losses of its trace are estimates."""

    name: str
    seed: int
    k: int
    protect: list[int]
    max_increase: float | None = None
    budget: str | None = Field(
        default=None, description="What the search was allowed to spend, as --budget reads it."
    )
    racing: RacingRecord | None = None
    rounding: RoundingRecord | None = Field(
        default=None, description="Null where it was not measured, as of a streamed model."
    )
    trace: list[Step]
    cost: CostRecord
    not_finite: list[list[int]] = Field(description="Sets whose loss was NaN or infinite.")


class DrawRecord(Record):
    """What the same search chose on another draw of the calibration."""

    repetition: int = Field(description="By how much every source's seed was raised.")
    removed: list[int]
    loss: float = Field(description="Of this set on this draw.")
    loss_of_first: float = Field(description="Of the checkpoint's set on this draw.")
    jaccard: float = Field(description="Overlap of the two sets, from 0 to 1.")
