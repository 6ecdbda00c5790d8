"""The results table: one row a cell of the grid, kept as JSON lines.

The first line is a header, `{"kind": "depthprune-study", "schema": 1, "plan": ...}`; every other
line is a `Row`, or a `DenseRow`: what the whole model is worth on the same texts and tasks.
`jsonl` says how it is written and read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from depthprune.study.items import Packed, unpack, weighted_mean
from depthprune.study.jsonl import JsonLines, Record

TABLE_NAME = "results.jsonl"
SCHEMA = 1
LARGEST_LOSS = 700.0
"""The largest whose perplexity is a number."""
KIND = "depthprune-study"
_ROUNDED = 1e-5
"""What rounding the losses of windows may change of their mean."""
Key: TypeAlias = tuple[str, int, str, str, str, int, int]


class CellCalibration(Record):
    """What a cell was calibrated on. Its draw is the row's."""

    name: str = Field(description="By which the plan calls this configuration.")
    kind: Literal["text", "choices"] = Field(description="Text windows or multiple-choice items.")
    source: str = Field(description="What was read, without how.")
    length: int | None = Field(
        default=None, description="Tokens a window, at most; null for choices."
    )
    windows: int = Field(ge=1, description="Windows or items.")
    tokens: int = Field(ge=0, description="Scored tokens.")


class CellCost(Record):
    """What the cell's search spent."""

    evaluations: int = Field(ge=0, description="Removed sets asked for.")
    block_tokens: int = Field(ge=0, description="Tokens times blocks that were run.")
    asked_block_tokens: int | None = Field(
        default=None,
        ge=0,
        description="The same as if nothing had been known: what the search costs by itself.",
    )
    head_tokens: int = Field(ge=0, description="Tokens whose logits were computed.")
    seconds: float = Field(ge=0, description="Wall time.")


class Evaluation(Record):
    """The pruned model on one text or task that no search saw."""

    name: str = Field(description="The text or the task.")
    kind: Literal["perplexity", "accuracy"]
    value: float = Field(description="Perplexity, or accuracy as a fraction of 1.")
    stderr: float | None = Field(default=None, description="Of the value, between its n.")
    n: int = Field(ge=1, description="Windows or items.")
    source: str | None = Field(
        default=None, description="The calibration source of the same domain, if there is one."
    )
    items: Packed | None = Field(
        default=None,
        description="Of each window its loss, of each item whether it was right (a bit, eight in "
        "two hexadecimal digits); their mean is the value, of a perplexity its logarithm.",
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="What each counts for in the mean, where not all count alike."
    )

    @model_validator(mode="after")
    def _possible(self) -> Evaluation:
        if self.kind == "accuracy" and not 0 <= self.value <= 1:
            raise ValueError(f"accuracy is a fraction from 0 to 1, got {self.value}")
        if self.kind == "perplexity" and not self.value > 0:
            raise ValueError(f"perplexity is above 0, got {self.value}")
        return self

    @model_validator(mode="after")
    def _mean_of_items(self) -> Evaluation:
        if self.weights is not None and len(self.weights) != self.n:
            raise ValueError(f"weights: expected {self.n}, got {len(self.weights)}")
        if self.items is None or not math.isfinite(self.value):
            return self
        found = weighted_mean(unpack(self.items, self.n), self.weights)
        value = math.log(self.value) if self.kind == "perplexity" else self.value
        if not abs(found - value) <= _ROUNDED:
            raise ValueError(f"the mean of items is {found:g}, and the value says {value:g}")
        return self


def require_set(removed: tuple[int, ...], k: int) -> None:
    """Refuse what is no removed set of size k.

    Raises:
        ValueError: If its blocks are more, fewer, repeated or out of order.
    """
    if len(removed) != k or list(removed) != sorted(set(removed)):
        raise ValueError(f"removed is k = {k} distinct blocks, sorted; got {removed}")


class DenseRow(Record):
    """What the whole model is worth on the texts and tasks of the cells."""

    kind: Literal["dense"] = "dense"
    model: str
    blocks: int = Field(ge=1, description="Blocks, N.")
    evaluations: tuple[Evaluation, ...] = ()
    error: str | None = Field(default=None, description="Why it failed; null where it ran.")

    @property
    def key(self) -> tuple[str, str]:
        """What tells this line from every other."""
        return self.kind, self.model


class Row(Record):
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
        default=None,
        description="Increase in loss of each removed block alone, in their order; null: infinite.",
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
        require_set(self.removed, self.k)
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
        dense: Of each model, what it is worth whole.
    """

    plan: str
    rows: tuple[Row, ...]
    dense: tuple[DenseRow, ...] = ()

    @property
    def done(self) -> tuple[Row, ...]:
        """The rows of cells that did not fail."""
        return tuple(row for row in self.rows if row.error is None)


Line: TypeAlias = Row | DenseRow


def _parsed(line: str) -> Line:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    dense = isinstance(found, dict) and found.get("kind") == "dense"
    return DenseRow.model_validate_json(line) if dense else Row.model_validate_json(line)


_LINES: JsonLines[Line] = JsonLines(
    KIND, SCHEMA, "a study's results table", _parsed, lambda row: row.key, "cell"
)


def _table(plan: str, lines: Sequence[Line]) -> Table:
    rows = tuple(line for line in lines if isinstance(line, Row))
    return Table(plan, rows, tuple(line for line in lines if isinstance(line, DenseRow)))


def write(path: Path, plan: str, rows: Sequence[Line] = ()) -> None:
    """Write a table as a whole; see `JsonLines.write`."""
    _LINES.write(path, plan, rows)


def append(path: Path, row: Line) -> None:
    """Add a row and have it on the disk before returning."""
    _LINES.append(path, row)


def resume(path: Path, plan: str) -> Table:
    """Open a table to append to: made where there is none, its torn last line cut off.

    Raises:
        UsageError: As `read`.
    """
    return _table(plan, _LINES.resume(path, plan))


def read(path: Path, plan: str | None = None) -> Table:
    """Read a table. A last line without its line end was cut short by a stop, and is passed over.

    Args:
        path: The file.
        plan: Fingerprint that the table must have; None takes any.

    Raises:
        UsageError: If it is no results table, is of another version or plan, has a row that does
            not fit the schema, or has a cell twice with two results.
    """
    return _table(*_LINES.read(path, plan))
