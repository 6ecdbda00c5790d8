"""The results table: one row a cell of the grid, kept as JSON lines.

A study writes a row as each cell ends and may be stopped at any time, so the table is a file that
is only ever appended to; a line cut short by the stop is dropped when the table is opened again.
The first line is a header, `{"kind": "depthprune-study", "schema": 1, "plan": ...}`: rows of
another version or another plan are refused, since mixing them would compare what is not
comparable. Every other line is a `Row`. Infinite values are the strings `"Infinity"` and `"NaN"`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from depthprune.errors import UsageError
from depthprune.outputs import whole_file

SCHEMA = 1
KIND = "depthprune-study"
Key: TypeAlias = tuple[str, int, str, str, str, int, int]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class CellCalibration(_Record):
    """What a cell was calibrated on. Its draw is the row's."""

    name: str = Field(description="By which the plan calls this configuration.")
    kind: Literal["text", "choices"] = Field(description="Text windows or multiple-choice items.")
    source: str = Field(description="What was read, without how.")
    length: int | None = Field(
        default=None, description="Tokens a window, at most; null for choices."
    )
    windows: int = Field(ge=1, description="Windows or items.")
    tokens: int = Field(ge=0, description="Scored tokens.")


class CellCost(_Record):
    """What the cell's search spent."""

    evaluations: int = Field(ge=0, description="Removed sets scored.")
    block_tokens: int = Field(ge=0, description="Tokens times blocks that were run.")
    head_tokens: int = Field(ge=0, description="Tokens whose logits were computed.")
    seconds: float = Field(ge=0, description="Wall time.")


class Evaluation(_Record):
    """The pruned model on one text or task that no search saw."""

    name: str = Field(description="The text or the task.")
    kind: Literal["perplexity", "accuracy"]
    value: float = Field(description="Perplexity, or accuracy as a fraction of 1.")
    stderr: float | None = Field(default=None, description="Of the value, between its n.")
    n: int = Field(ge=1, description="Windows or items.")
    source: str | None = Field(
        default=None, description="The calibration source of the same domain, if there is one."
    )

    @model_validator(mode="after")
    def _possible(self) -> Evaluation:
        if self.kind == "accuracy" and not 0 <= self.value <= 1:
            raise ValueError(f"accuracy is a fraction from 0 to 1, got {self.value}")
        if self.kind == "perplexity" and not self.value > 0:
            raise ValueError(f"perplexity is above 0, got {self.value}")
        return self


class Row(_Record):
    """One cell: a search on one draw of one calibration, and what its set is worth elsewhere."""

    model: str
    blocks: int = Field(ge=1, description="Blocks of the original, N.")
    protect: tuple[int, ...] = Field(default=(), description="Blocks that had to stay.")
    k: int = Field(ge=0, description="Blocks removed.")
    calibration: CellCalibration
    objective: str
    search: str
    draw: int = Field(ge=0, description="Seed of the draw.")
    search_seed: int = Field(default=0, ge=0)
    removed: tuple[int, ...] = Field(
        default=(), description="Original block numbers, sorted; empty where the cell failed."
    )
    loss: float | None = Field(default=None, description="The set's loss on its calibration.")
    stderr: float | None = Field(default=None, description="Of `loss`, between windows.")
    dense_loss: float | None = Field(default=None, description="The whole model's, same windows.")
    alone: tuple[float, ...] | None = Field(
        default=None, description="Increase in loss of each removed block alone, in their order."
    )
    cost: CellCost | None = None
    evaluations: tuple[Evaluation, ...] = ()
    error: str | None = Field(default=None, description="Why the cell failed; null where it ran.")

    @property
    def key(self) -> Key:
        """What tells this cell from every other."""
        return (
            self.model, self.k, self.calibration.name, self.objective,
            self.search, self.draw, self.search_seed,
        )  # fmt: skip

    @model_validator(mode="after")
    def _whole(self) -> Row:
        if self.error is not None:
            return self
        if len(self.removed) != self.k or list(self.removed) != sorted(set(self.removed)):
            raise ValueError(f"removed is k = {self.k} distinct blocks, sorted; got {self.removed}")
        if self.removed and not 0 <= self.removed[0] <= self.removed[-1] < self.blocks:
            raise ValueError(f"removed is within 0–{self.blocks - 1}, got {self.removed}")
        if set(self.removed) & set(self.protect):
            raise ValueError(f"removed holds none of the protected blocks {self.protect}")
        if self.alone is not None and len(self.alone) != self.k:
            raise ValueError(f"alone has one value a removed block, got {len(self.alone)}")
        names = [(evaluation.name, evaluation.kind) for evaluation in self.evaluations]
        if len(set(names)) != len(names):
            raise ValueError("evaluations name each text or task once")
        return self


@dataclass(frozen=True)
class Table:
    """A study's results.

    Attributes:
        plan: Fingerprint of the plan that the rows belong to.
        rows: In the order written.
    """

    plan: str
    rows: tuple[Row, ...]

    @property
    def done(self) -> tuple[Row, ...]:
        """The rows of cells that did not fail."""
        return tuple(row for row in self.rows if row.error is None)


def write(path: Path, plan: str, rows: Sequence[Row] = ()) -> None:
    """Write a table as a whole; an existing file is replaced.

    Args:
        path: The file.
        plan: Fingerprint of the plan.
        rows: May be empty: a table that is to be appended to.
    """
    lines = [json.dumps({"kind": KIND, "schema": SCHEMA, "plan": plan})]
    lines += [row.model_dump_json() for row in rows]
    with whole_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def append(path: Path, row: Row) -> None:
    """Add a row and have it on the disk before returning."""
    with path.open("a", encoding="utf-8") as file:
        file.write(row.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def resume(path: Path, plan: str) -> Table:
    """Open a table to append to: made where there is none, its torn last line cut off.

    Raises:
        UsageError: As `read`.
    """
    if not path.exists() or not path.read_bytes().strip():
        write(path, plan)
    table = read(path, plan)
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return table


def read(path: Path, plan: str | None = None) -> Table:
    """Read a table. A last line without its line end was cut short by a stop, and is passed over.

    Args:
        path: The file.
        plan: Fingerprint that the table must have; None takes any.

    Raises:
        UsageError: If it is no results table, is of another version or plan, has a row that does
            not fit the schema, or has a cell twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: cannot be read ({error}); expected a study's results table"
        ) from error
    lines = text.split("\n")[:-1]
    found = _header(path, lines[0] if lines else "")
    if plan is not None and found != plan:
        raise UsageError(
            f"{path}: its plan is {found}, expected {plan}; choose another folder, or remove it"
        )
    rows: dict[Key, Row] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _row(path, number, line)
        if row.key in rows:
            raise UsageError(f"{path} line {number}: this cell was given before; remove one of two")
        rows[row.key] = row
    return Table(found, tuple(rows.values()))


def _header(path: Path, line: str) -> str:
    try:
        header: Any = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise UsageError(f"{path}: expected a study's results table, whose first line says {KIND}")
    if header.get("schema") != SCHEMA:
        raise UsageError(
            f"{path}: expected schema {SCHEMA}, found {header.get('schema')}; read it with the "
            "version of depthprune that wrote it, or run the study again"
        )
    return str(header.get("plan"))


def _row(path: Path, number: int, line: str) -> Row:
    try:
        return Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path} line {number}: {where + ': ' if where else ''}{first['msg']}; remove the line "
            "to have the cell run again"
        ) from error
