"""What was drawn to calibrate on, window by window."""

from __future__ import annotations

from pydantic import Field, JsonValue

from depthprune.manifest.record import Record


class WindowRecord(Record):
    """Where one window was cut: token positions within the source's token sequence."""

    document: str
    start: int
    length: int


class CalibrationRecord(Record):
    """One source of a calibration and what was drawn from it."""

    spec: str = Field(description="The spec in one line; a key that it lacks has its default.")
    fingerprint: str = Field(description="Of the tokens of its windows and how they are scored.")
    weight: float = Field(description="Share of the mixture, the shares summing to 1.")
    tokens: int
    bos: bool | None = Field(
        default=None, description="Whether every window begins with BOS, as the model's tokenizer "
        "puts it.",
    )  # fmt: skip
    windows: list[WindowRecord]
    dimensions: dict[str, JsonValue] | None = Field(
        default=None, description="Every key of the spec with its value, as a YAML file takes it."
    )
    reduction: str | None = Field(
        default=None, description="How windows make one loss: token, window or worst-domain."
    )
    domains: dict[str, int] | None = Field(default=None, description="Windows of each domain.")
    repeats: int | None = Field(
        default=None, description="Documents left out because they repeat an earlier one."
    )
    overlap: float | None = Field(
        default=None, description="Share of the windows that overlap with the files of against=."
    )
    notes: list[str] = Field(
        default=[], description="What was said of how it was read, such as what was passed over."
    )
