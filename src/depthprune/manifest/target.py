"""How the calibration was chosen by what keeps a task (`--for`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from depthprune.manifest.losses import Estimate
from depthprune.manifest.record import Record


class TargetGoal(Record):
    """One `--for`, and how it was split."""

    spec: str
    kind: Literal["choices", "answers", "chats", "text"]
    weight: float = Field(description="Share among the goals, the shares summing to 1.")
    counted: Literal["documents", "passages"] = Field(
        description="What was split: a text of few documents is cut into passages."
    )
    documents: list[int] = Field(description="To calibrate on, to choose by, to judge by.")
    windows: list[int] = Field(description="Scored to choose, and to judge.")
    tokens: list[int] = Field(description="Of those windows.")
    notes: list[str] = Field(
        default=[], description="What was said of how it was read, such as what was passed over."
    )


class TargetCalibration(Record):
    """One calibration that was tried."""

    name: str
    specs: list[str]
    objective: str
    tokens: int
    fingerprint: str


class TargetSet(Record):
    """One removed set that was looked at."""

    removed: list[int]
    calibration: str = Field(description="On which it was found, by its name.")
    search: str = Field(description="By which it was found, or `swap`.")
    share: float = Field(description="Of that calibration's windows that were searched on.")
    loss: float = Field(description="On the part of the target that chooses.")
    stderr: float
    windows: int = Field(description="It dropped out of the race after so many.")
    general: float = Field(description="Loss on held-out default text, nats a token.")
    tied: bool = Field(description="Whether it cannot be told apart from the best.")
    refused: bool = Field(description="Whether --keep-general or --max-increase refuses it.")


class TargetRound(Record):
    """What one round of the spending tried."""

    name: str
    tried: int
    leader: list[int]
    loss: float = Field(description="The leader's, on the target's first windows.")
    evaluations: float = Field(description="All that was spent until then.")
    block_tokens: int


class TargetJudged(Record):
    """A set on the part of the target that decided nothing."""

    what: Literal["chosen", "default", "task", "whole"] = Field(
        description="The set that was chosen, what the default calibration and the task itself "
        "give by the same search, and the whole model."
    )
    removed: list[int]
    loss: Estimate
    accuracy: float | None = Field(
        default=None, description="Share of items answered right, where the target has items."
    )
    accuracy_stderr: float | None = None
    above: float = Field(description="Its loss minus that of the chosen set, window by window.")
    above_stderr: float
    low: float = Field(description="Of a 95% interval of that difference.")
    high: float


class TargetRecord(Record):
    """How the calibration was chosen by what keeps a task."""

    goals: list[TargetGoal]
    split: str = Field(description="Shares of the parts in percent, as --for-split takes them.")
    seed: int
    objective: str = Field(description="What is measured on the target.")
    calibrations: list[TargetCalibration]
    left_out: dict[str, str] = Field(description="Calibrations that gave no set, with why.")
    sets: list[TargetSet]
    rounds: list[TargetRound]
    chosen: str = Field(description="The calibration that won, by its name.")
    search: str = Field(description="By which its set was found, or `swap`.")
    delta: float = Field(description="Chance that the choice dropped the best set.")
    keep_general: float | None = None
    budget: str
    whole: Estimate = Field(description="The whole model on the part that chooses.")
    choosing: Estimate = Field(description="The chosen set on the part that chooses.")
    judged: list[TargetJudged]

    @property
    def ties(self) -> int:
        """How many sets cannot be told apart on the target; the default text takes one of them."""
        return sum(each.tied for each in self.sets)
