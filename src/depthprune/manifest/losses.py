"""Losses: a mean with its standard error, and what a removal did to it.

Standard errors are between windows; that of an increase is paired with the dense model, window by
window.
"""

from __future__ import annotations

from pydantic import Field

from depthprune.manifest.record import Record


class Estimate(Record):
    """A mean loss over windows, with the standard error between windows."""

    loss: float
    stderr: float
    windows: int
    tokens: int = Field(description="Scored tokens, summed over the windows.")
    perplexity: float | None = Field(
        default=None, description="exp(loss), where the objective has one."
    )


class BlockScore(Record):
    """The loss of the model with one block removed."""

    block: int
    loss: float
    stderr: float
    increase: float = Field(description="Loss minus the dense model's, on the same windows.")
    increase_stderr: float
    windows: int | None = Field(
        default=None, description="On how many windows, where a race did not need all."
    )


class PathPoint(Record):
    """One size on a search's nested path of removed sets, judged on held-out windows."""

    k: int
    removed: list[int]
    loss: float
    held_out: float | None = None
    held_out_stderr: float | None = None


class HeldOut(Record):
    """Losses before and after on windows that no search saw."""

    calibration: str
    objective: str | None = Field(
        default=None,
        description="Where it is not the manifest's; of accuracy the loss is the share of wrong "
        "answers.",
    )
    dense: Estimate
    pruned: Estimate
    increase: float
    increase_stderr: float
    recovered: Estimate | None = Field(
        default=None, description="After recovery, if there was any."
    )
    recovered_increase: float | None = Field(
        default=None, description="Of the recovered model over the dense one."
    )
    recovered_increase_stderr: float | None = None
    recovered_change: float | None = Field(
        default=None, description="Of the recovered model over the unrecovered one."
    )
    recovered_change_stderr: float | None = None
