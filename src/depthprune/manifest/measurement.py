"""What was measured of the checkpoint as it was written: size, speed, parity, and what it answers.

Each compares it with the model that was pruned, or with that model with its blocks masked.
"""

from __future__ import annotations

from pydantic import Field

from depthprune.manifest.record import Record


class Spread(Record):
    """A median and the lowest and highest of its repeats."""

    median: float
    low: float
    high: float


class Speed(Record):
    """Tokens a second, the two models interleaved."""

    prefill_before: Spread
    prefill_after: Spread
    decode_before: Spread
    decode_after: Spread
    prompt_tokens: int
    new_tokens: int
    repeats: int


class Size(Record):
    """Parameters and bytes on disk, before and after. Bytes are of the files with the weights."""

    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    bytes_source: int | None = Field(
        default=None, description="The file the model came from, if a GGUF."
    )


class ParityRecord(Record):
    """How the reloaded checkpoint compared with the masked model."""

    dtype: str
    tokens: int
    logits_scale: float
    logits_difference: float = Field(description="Largest absolute difference.")
    bitwise: bool
    float32_difference: float | None = Field(
        default=None,
        description="Relative to the scale, when the first comparison was not bitwise.",
    )
    float64_difference: float | None = Field(
        default=None,
        description="Relative to the scale, when float32 could not decide either.",
    )
    generated_tokens: int


class Sample(Record):
    """A sampled continuation of one prompt from both models."""

    prompt: str
    before: str
    after: str
    seed: int
    temperature: float


class AnswerShare(Record):
    """How one model answered."""

    right: float = Field(description="Share of the problems, from 0 to 1.")
    stderr: float | None = Field(description="Between problems; null of a single one.")
    unanswered: int = Field(description="Problems in whose answer there was nothing to compare.")


class AnswerRecord(Record):
    """Problems of `--answers`, which the models answered greedily, in their own words."""

    calibration: str = Field(description="The spec that they were drawn by.")
    problems: int
    new_tokens: int = Field(description="That an answer may have.")
    dense: AnswerShare
    pruned: AnswerShare
    recovered: AnswerShare | None = None
    change: float = Field(
        description="Share right of the checkpoint as it was written, minus the whole model's."
    )
    change_stderr: float | None = Field(description="Of the paired difference, between problems.")
    collapsed: bool = Field(
        description="Whether the checkpoint answers less than half of what the whole model does, "
        "and the difference is above two standard errors."
    )

    @property
    def kept(self) -> AnswerShare:
        """Of the checkpoint as it was written."""
        return self.pruned if self.recovered is None else self.recovered
