"""Recovery: what was fitted or trained to mend a removal, and what that was worth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from depthprune.manifest.calibration import CalibrationRecord
from depthprune.manifest.losses import HeldOut
from depthprune.manifest.record import Record


class RecoveredRun(Record):
    """One run of removed blocks, and what was written into the block before it."""

    blocks: list[int]
    into: int | None = Field(description="The kept block; null for a run at the very bottom.")
    why_not: str | None = Field(default=None, description="Why nothing was changed.")
    ridge: float | None = Field(
        default=None, description="As a share of the mean square of what was mapped."
    )
    strength: float = Field(description="How much of the fitted change was used, 0 to 1.")
    tokens: int = Field(description="That were fitted.")
    apart: int = Field(description="Tokens left out for massive activations.")
    before: float | None = Field(
        default=None,
        description="Root mean square, an element, of what the state behind the run lacked, on "
        "windows that were not fitted.",
    )
    after: float | None = Field(default=None, description="The same with the change.")
    rank: int | None = Field(
        default=None, description="Directions of the width that the fitted tokens span."
    )
    factor: float | None = Field(
        default=None, description="By which all below the run was multiplied."
    )


class RefittedLayer(Record):
    """One linear layer of a kept block, refitted on what the pruned model feeds in."""

    block: int
    layer: str = Field(description="Name of the module in the block.")
    writes: bool = Field(
        description="Whether it was fitted to what the state behind the block lacked; otherwise to "
        "what the layer gives in the whole model."
    )
    ridge: float | None = Field(
        default=None, description="As a share of the mean square of its inputs."
    )
    strength: float = Field(description="How much of the fitted change was used, 0 to 1.")
    tokens: int = Field(description="That were fitted.")
    before: float = Field(
        description="Root mean square, an element, of what was lacking, on windows that were not "
        "fitted."
    )
    after: float = Field(description="The same with the change.")
    rank: int = Field(description="Directions of its inputs that the fitted tokens span.")


class TrainingPoint(Record):
    """What training was worth after some steps, in nats a token."""

    step: int
    trained: float | None = Field(
        default=None, description="Mean loss of the steps since the last point."
    )
    choosing: float = Field(description="On windows that choose the best step.")
    held_out: float = Field(description="The same on held-out windows, which decide nothing.")
    held_out_nll: float = Field(description="The text's own loss on those.")


class TrainingRecord(Record):
    """How adapters or the last blocks were trained to give what the dense model gives."""

    settings: str = Field(description="As --recover takes them; what is not named is the default.")
    parameters: int = Field(description="Numbers trained; adapters', before they were merged.")
    tokens: int = Field(description="Tokens trained on, each as often as it was.")
    steps: int
    best: int = Field(description="The step that was merged; 0 if none was better than none.")
    stopped: bool = Field(description="Whether training ended before its last step.")
    curve: list[TrainingPoint]


class RecoveryRecord(Record):
    """What was done to mend what removal broke."""

    method: Literal["linear", "magnitude", "lora", "last"]
    in_search: bool = Field(default=False, description="Whether the search scored recovered sets.")
    calibration: list[CalibrationRecord]
    settings: str | None = Field(
        default=None, description="As --recover takes them; what is not named is the default."
    )
    runs: list[RecoveredRun]
    refits: list[RefittedLayer] = Field(
        default=[], description="Of the blocks before and behind the gaps, in turn."
    )
    training: TrainingRecord | None = None
    further: list[HeldOut] = Field(description="Losses on other text that was named for it.")
    choices: list[HeldOut] = Field(
        default=[],
        description="Accuracy on the items with options among both: the calibration's held-out "
        "ones and the further ones.",
    )
    warnings: list[str] = Field(description="Texts on which it made the model worse.")
