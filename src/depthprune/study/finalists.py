"""Finalists: which sets are judged on what takes minutes, and the table of what came of it.

A cell is judged on texts and items that the evaluator scores in seconds. Tasks of the harness and
generation cost a hundred times as much, so only the best few sets of each model and k go there, the
whole model beside them. They are chosen by what the cells were judged on, never by the tasks
themselves, so a task's figure is not the luckiest of many.

The table is `finalists.jsonl`: a `FinalRow` is one set on one task or one set of problems, written
as it ends; `jsonl` says how. Its plan is the fingerprint of what finalists are judged on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from depthprune.evaluator import RemovedSet
from depthprune.study.jsonl import JsonLines, Record
from depthprune.study.table import Row, require_set

FINALS_NAME = "finalists.jsonl"
SCHEMA = 1
KIND = "depthprune-finalists"
FinalKey: TypeAlias = tuple[str, RemovedSet, str, str]


class FinalScore(Record):
    """One metric."""

    task: str = Field(description="The task's own name, or that of the problems.")
    metric: str = Field(description="Such as acc, acc_norm or exact_match.")
    filter: str = Field(default="none", description="What the harness did to the answers first.")
    value: float
    stderr: float | None = Field(default=None, description="Of the value, between its n.")
    n: int = Field(ge=1, description="Items or problems.")


class FinalRow(Record):
    """One set on one task of the harness or on one set of problems."""

    model: str
    blocks: int = Field(ge=1, description="Blocks of the original, N.")
    k: int = Field(ge=0, description="Blocks removed; 0 is the whole model.")
    removed: tuple[int, ...] = Field(default=(), description="Original block numbers, sorted.")
    kind: Literal["task", "generate"]
    name: str = Field(description="As the plan names it.")
    scores: tuple[FinalScore, ...] = Field(default=(), description="Empty where it failed.")
    seconds: float = Field(ge=0, description="Wall time.")
    error: str | None = Field(default=None, description="Why it failed; null where it ran.")

    @property
    def key(self) -> FinalKey:
        """What tells this line from every other."""
        return self.model, self.removed, self.kind, self.name

    @model_validator(mode="after")
    def _whole(self) -> FinalRow:
        require_set(self.removed, self.k)
        if not self.scores and self.error is None:
            raise ValueError("there are neither scores nor an error")
        return self


FINALS = JsonLines(
    KIND,
    SCHEMA,
    "a study's table of finalists",
    FinalRow.model_validate_json,
    lambda row: row.key,
    "finalist",
)


@dataclass(frozen=True)
class Finalist:
    """A set that is judged further.

    Attributes:
        model: Whose.
        removed: Empty for the whole model.
    """

    model: str
    removed: RemovedSet

    @property
    def k(self) -> int:
        """Blocks removed."""
        return len(self.removed)


def choose_finalists(rows: Sequence[Row], count: int) -> list[Finalist]:
    """The best sets of each model and k, after each model's whole one.

    Each distinct set is ranked once, however many cells chose it: by its mean log-perplexity on
    the texts, else by its mean accuracy. A set with a value that is not finite is passed over; of
    equals the first by block numbers counts.

    Args:
        rows: A study's cells.
        count: How many of each model and k.
    """
    done = [row for row in rows if row.error is None]
    chosen = []
    for model in dict.fromkeys(row.model for row in done):
        chosen.append(Finalist(model, ()))
        for k in sorted({row.k for row in done if row.model == model}):
            known = {row.removed: _judged(row) for row in done if (row.model, row.k) == (model, k)}
            ranked = sorted((value, s) for s, value in known.items() if math.isfinite(value))
            chosen += [Finalist(model, removed) for _, removed in ranked[:count]]
    return chosen


def _judged(row: Row) -> float:
    texts = [math.log(e.value) for e in row.evaluations if e.kind == "perplexity"]
    tasks = [1 - e.value for e in row.evaluations if e.kind == "accuracy"]
    values = texts or tasks
    return float(np.mean(values)) if values else math.nan
