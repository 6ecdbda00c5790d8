"""The manifest `depthprune.json`: what was done to a checkpoint, in a form that can be repeated.

It is written beside every checkpoint, read back by the report, and versioned by `schema`. Fields
that a verb does not know (`apply` measures no losses) are null. Losses are in nats a token unless
the objective says otherwise; standard errors are between windows, and paired with the dense model
where a difference is meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from depthprune.errors import CheckpointError
from depthprune.manifest.calibration import CalibrationRecord
from depthprune.manifest.draft import DraftRecord
from depthprune.manifest.losses import BlockScore, Estimate, HeldOut, PathPoint
from depthprune.manifest.measurement import AnswerRecord, ParityRecord, Sample, Size, Speed
from depthprune.manifest.record import Record
from depthprune.manifest.recovery import RecoveryRecord
from depthprune.manifest.search import DrawRecord, SearchRecord
from depthprune.manifest.software import Versions
from depthprune.manifest.target import TargetRecord
from depthprune.untrusted import parse_json, read_text


class FirstModel(Record):
    """The model that the pruned one had itself been cut from, by one cut or several."""

    name: str
    kind: Literal["folder", "hub", "gguf"]
    blocks: int
    revision: str | None = None
    fingerprint: str | None = None
    removed: list[int] = Field(description="All of its blocks that are gone now, sorted.")


class SourceModel(Record):
    """The model that was pruned."""

    name: str = Field(description="What the user wrote: a folder, a hub id, a file, or `demo`.")
    kind: Literal["folder", "hub", "gguf"]
    model_type: str
    blocks: int
    revision: str | None = None
    fingerprint: str | None = Field(
        default=None, description="Of the weights' headers and sampled bytes."
    )
    loader: str | None = Field(
        default=None, description="What in transformers loads it, where it is no language model."
    )
    code: bool = Field(default=False, description="Whether Python code of its own makes it.")
    cut_from: FirstModel | None = Field(
        default=None, description="Where a manifest beside it says what it was cut from."
    )


class Manifest(Record):
    """The whole of `depthprune.json`."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    created: str = Field(description="UTC, ISO 8601.")
    command: str | None = Field(default=None, description="The command line that makes this again.")
    model: SourceModel
    removed: list[int] = Field(description="Original block numbers, sorted.")
    kept: list[int]
    dtype: str = Field(
        description="Of the tensors written; the most common one, where they differ."
    )
    measured_dtype: str | None = Field(
        default=None, description="That the losses were computed in."
    )
    measured_dtype_reason: str | None = Field(
        default=None, description="What was measured to choose it; null where it was given."
    )
    device: str | None = None
    calibration: list[CalibrationRecord] | None = None
    objective: str | None = None
    search: SearchRecord | None = None
    dense: Estimate | None = Field(default=None, description="The dense model on the calibration.")
    pruned: Estimate | None = Field(default=None, description="The removed set on the calibration.")
    blocks: list[BlockScore] | None = Field(default=None, description="Each block removed alone.")
    path: list[PathPoint] | None = None
    draws: list[DrawRecord] | None = Field(
        default=None, description="The same search on further draws."
    )
    held_out: list[HeldOut] | None = None
    target: TargetRecord | None = Field(
        default=None, description="How the calibration was chosen, where --for asked for it."
    )
    draft: DraftRecord | None = Field(
        default=None, description="What it is worth as a draft, where --as-draft asked for it."
    )
    recovery: RecoveryRecord | None = None
    size: Size | None = None
    speed: Speed | None = None
    parity: ParityRecord | None = None
    sample: Sample | None = None
    answers: list[AnswerRecord] | None = Field(
        default=None, description="What the models answered in words, where --answers asked."
    )
    versions: Versions
    files: list[str] = Field(description="Every file depthprune wrote beside the manifest.")

    model_config = ConfigDict(populate_by_name=True)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            CheckpointError: If it cannot be read, or is no manifest, saying where.
        """
        text = read_text(path)
        parse_json(text, str(path))
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path}: {where}: {first['msg']}; expected a manifest of schema 1; prune the "
                "original again"
            ) from error

    def text(self) -> str:
        """The manifest as indented JSON."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def write(self, path: Path) -> None:
        """Write the manifest as indented UTF-8 JSON."""
        path.write_text(self.text(), encoding="utf-8")
