"""Judging one finalist: on every task and every set of problems, as the model `prune` would write.

Its checkpoint is cut into a folder that is removed afterwards, reloaded, and proved to compute what
the masked model computes. A masked model would do for likelihoods, but its cache is not that of a
shorter model, so it cannot generate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import nn

from depthprune.calibration import Calibration, HasTokenizer, calibrate, context_of
from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import DepthpruneError, EvaluationError
from depthprune.evaluator import RemovedSet
from depthprune.models.loading import Model
from depthprune.models.parity import reload_like, verify
from depthprune.models.turns import taking_turns
from depthprune.pruning.generation import answer_all
from depthprune.pruning.output import block_prefix
from depthprune.study.finalists import Finalist, FinalRow, FinalScore
from depthprune.study.grid import Grid
from depthprune.study.harness import run_tasks, scores_of
from depthprune.study.jsonl import only_line
from depthprune.study.plan import Plan

Problems: TypeAlias = Mapping[str, Calibration | DepthpruneError]
"""Sets of problems by name, as they were drawn, or why they could not be."""


@dataclass(frozen=True)
class FinalJob:
    """One finalist on one task (`kind` task) or one set of problems (`kind` generate)."""

    finalist: Finalist
    kind: str
    name: str
    task: str


def draw_problems(grid: Grid, model: HasTokenizer) -> Problems:
    """Draw what finalists answer in their own words.

    Args:
        grid: The study's.
        model: Whose tokenizer is used.
    """
    return {name: _drawn(grid, model, name) for name in grid.problems}


def _drawn(grid: Grid, model: HasTokenizer, name: str) -> Calibration | DepthpruneError:
    try:
        return calibrate(grid.problems[name], model, split=grid.plan.generate[name].split)
    except DepthpruneError as error:
        return error


@dataclass(frozen=True)
class FinalJudge:
    """Judges the finalists of one model.

    Attributes:
        plan: The study's.
        model: The original.
        dense: Its checkpoint.
        problems: What is answered in words.
        folder: Where cuts are made.
    """

    plan: Plan
    model: Model
    dense: Checkpoint
    problems: Problems
    folder: Path

    def rows(self, jobs: Sequence[FinalJob]) -> Iterator[FinalRow]:
        """Judge one set, on what several jobs name."""
        removed = jobs[0].finalist.removed
        with tempfile.TemporaryDirectory(prefix=".finalist-", dir=self.folder) as folder:
            try:
                module = self.pruned(removed, Path(folder))
            except DepthpruneError as error:
                yield from (failed(job, self.model.blocks, error) for job in jobs)
                return
            with taking_turns(module, self.model.module):
                for job in jobs:
                    yield self._row(module, job)

    def pruned(self, removed: RemovedSet, folder: Path) -> nn.Module:
        """The whole model, or the reloaded cut, proved to be what was measured.

        Args:
            removed: Original block numbers.
            folder: Where the cut is made.

        Raises:
            DepthpruneError: If it cannot be cut, or computes something else.
        """
        model = self.model
        if not removed:
            return model.module
        write_pruned(self.dense, removed, folder, block_prefix=block_prefix(model))
        module = reload_like(model, folder)
        verify(model, module, removed)
        return module

    def _row(self, module: nn.Module, job: FinalJob) -> FinalRow:
        began = time.perf_counter()
        try:
            scores = self._scores(module, job)
        except DepthpruneError as error:
            return failed(job, self.model.blocks, error, time.perf_counter() - began)
        return _row(job, self.model.blocks, time.perf_counter() - began, scores)

    def _scores(self, module: nn.Module, job: FinalJob) -> tuple[FinalScore, ...]:
        tokenizer = self.model.tokenizer
        if job.kind == "task":
            found = run_tasks(module, tokenizer, [job.task], items=self.plan.task_items)
            scores = tuple(scores_of(found))
            if not scores:
                raise EvaluationError(f"{job.name}: lm-evaluation-harness gives no number for it")
            return scores
        asked, drawn = self.plan.generate[job.name], self.problems[job.name]
        if isinstance(drawn, DepthpruneError):
            raise drawn
        answered = answer_all(
            module,
            tokenizer,
            drawn.windows,
            max_new_tokens=asked.max_new_tokens,
            stop=asked.stop,
            context=context_of(self.model),
        )
        score = FinalScore(
            task=job.name,
            metric="exact_match",
            value=answered.value,
            stderr=answered.stderr,
            n=answered.n,
        )
        return (score,)


def failed(job: FinalJob, blocks: int, error: DepthpruneError, seconds: float = 0.0) -> FinalRow:
    """The line of a job that failed.

    Args:
        job: Which.
        blocks: Of the original.
        error: Why.
        seconds: How long it took.
    """
    return _row(job, blocks, seconds, error=only_line(error))


def _row(
    job: FinalJob,
    blocks: int,
    seconds: float,
    scores: tuple[FinalScore, ...] = (),
    error: str | None = None,
) -> FinalRow:
    return FinalRow(
        model=job.finalist.model,
        blocks=blocks,
        k=job.finalist.k,
        removed=job.finalist.removed,
        kind="task" if job.kind == "task" else "generate",
        name=job.name,
        scores=scores,
        seconds=seconds,
        error=error,
    )
