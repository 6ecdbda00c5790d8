"""Judging finalists: each on every task and every set of problems, a line written as each ends.

A finalist is judged as the model that `prune` would write: its checkpoint is cut into a folder that
is removed afterwards, reloaded, and proved to compute what the masked model computes. A masked
model would do for likelihoods, but its cache is not that of a shorter model, so it cannot generate.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from depthprune.calibration import calibrate, seen_from
from depthprune.calibration.calibration import context_of
from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import DepthpruneError
from depthprune.evaluator import RemovedSet
from depthprune.models.loading import Model, load
from depthprune.models.parity import reload_like, verify
from depthprune.models.turns import taking_turns
from depthprune.progress import SILENT, Progress
from depthprune.pruning.output import block_prefix, dense_checkpoint
from depthprune.study.finalists import (
    FINALS,
    FINALS_NAME,
    Finalist,
    FinalRow,
    FinalScore,
    choose_finalists,
)
from depthprune.study.generation import answer_all
from depthprune.study.grid import Grid, only_line
from depthprune.study.harness import require_harness, run_tasks, scores_of
from depthprune.study.table import Row


@dataclass(frozen=True)
class FinalOutcome:
    """How the judging ended.

    Attributes:
        done: Lines in the table that ran, of all times.
        failed: Lines that failed.
        new: Lines that this run wrote.
    """

    done: int
    failed: int
    new: int


@dataclass(frozen=True)
class _Job:
    """One finalist on one task (`kind` task) or one set of problems (`kind` generate)."""

    finalist: Finalist
    kind: str
    name: str
    task: str


@dataclass(frozen=True)
class Finals:
    """The finalists of a study, being judged into its folder.

    Attributes:
        grid: The study's.
        folder: Where the table lies.
        progress: Where the work shows itself.
        loader: Loads a model by its name.
    """

    grid: Grid
    folder: Path
    progress: Progress = SILENT
    loader: Callable[..., Model] = load

    @property
    def wanted(self) -> bool:
        """Whether the plan has anything for finalists."""
        return bool(self.grid.tasks or self.grid.problems)

    @property
    def table(self) -> Path:
        """The finalists' table."""
        return self.folder / FINALS_NAME

    @property
    def fingerprint(self) -> str:
        """Of all that decides what a finalist gets, in hexadecimal; how many there are does not."""
        plan = self.grid.plan
        facts = {
            "tasks": plan.tasks,
            "items": plan.task_items,
            "generate": {n: g.model_dump(exclude={"spec"}) for n, g in plan.generate.items()},
            "problems": {
                name: seen_from(spec, self.grid.folder).line()
                for name, spec in self.grid.problems.items()
            },
            "dtype": plan.dtype,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def check(self) -> None:
        """Refuse before any cell is run what finalists could not be judged on.

        Raises:
            UsageError: If tasks are asked for and the harness is not installed, or the folder
                holds the finalists of another plan.
        """
        if self.grid.tasks:
            require_harness()
        if self.wanted and self.table.exists():
            FINALS.resume(self.table, self.fingerprint)

    def run(self, rows: Sequence[Row]) -> FinalOutcome:
        """Judge the finalists among some cells on what they have not been judged on yet.

        Raises:
            UsageError: As `check`.
        """
        if not self.wanted:
            return FinalOutcome(0, 0, 0)
        self.check()
        known = FINALS.resume(self.table, self.fingerprint)
        keys = {row.key for row in known}
        jobs = [
            _Job(finalist, kind, name, task)
            for finalist in choose_finalists(rows, self.grid.plan.finalists)
            for kind, name, task in self._pieces()
            if (finalist.model, finalist.removed, kind, name) not in keys
        ]
        failed = sum(row.error is not None for row in known)
        done = len(known) - failed
        with self.progress.step("judging finalists", len(jobs), "tasks") as step:
            for row in self._rows(jobs):
                FINALS.append(self.table, row)
                failed += row.error is not None
                done += row.error is None
                step.advance()
        return FinalOutcome(done, failed, len(jobs))

    def _pieces(self) -> Iterator[tuple[str, str, str]]:
        named = zip(self.grid.plan.tasks, self.grid.tasks, strict=True)
        yield from (("task", name, task) for name, task in named)
        yield from (("generate", name, "") for name in self.grid.problems)

    def _rows(self, jobs: Sequence[_Job]) -> Iterator[FinalRow]:
        for name, of_model in itertools.groupby(jobs, key=lambda job: job.finalist.model):
            group, written = list(of_model), 0
            plan = self.grid.plan
            try:
                model = self.loader(self.grid.place(name), dtype=plan.dtype, device=plan.device)
                with dense_checkpoint(
                    model, self.folder / "finalists", progress=self.progress
                ) as dense:
                    for row in self._rows_of(model, dense, group):
                        yield row
                        written += 1
            except DepthpruneError as error:
                left = group[written:]
                yield from (_failed(job, max(job.finalist.k, 1), 0.0, error) for job in left)

    def _rows_of(self, model: Model, dense: Checkpoint, jobs: Sequence[_Job]) -> Iterator[FinalRow]:
        for removed, of_set in itertools.groupby(jobs, key=lambda job: job.finalist.removed):
            group = list(of_set)
            with tempfile.TemporaryDirectory(prefix=".finalist-", dir=self.folder) as folder:
                try:
                    module = self._pruned(model, dense, removed, Path(folder))
                except DepthpruneError as error:
                    yield from (_failed(job, model.blocks, 0.0, error) for job in group)
                    continue
                with taking_turns(module, model.module):
                    for job in group:
                        yield self._row(model, module, job)

    def _pruned(
        self, model: Model, dense: Checkpoint, removed: RemovedSet, folder: Path
    ) -> nn.Module:
        """The whole model, or the reloaded cut, proved to be what was measured."""
        if not removed:
            return model.module
        write_pruned(dense, removed, folder, block_prefix=block_prefix(model))
        module = reload_like(model, folder)
        verify(model, module, removed)
        return module

    def _row(self, model: Model, module: nn.Module, job: _Job) -> FinalRow:
        began = time.perf_counter()
        try:
            scores = self._scores(model, module, job)
        except DepthpruneError as error:
            return _failed(job, model.blocks, time.perf_counter() - began, error)
        return _row(job, model.blocks, time.perf_counter() - began, scores)

    def _scores(self, model: Model, module: nn.Module, job: _Job) -> tuple[FinalScore, ...]:
        if job.kind == "task":
            found = run_tasks(module, model.tokenizer, [job.task], items=self.grid.plan.task_items)
            return tuple(scores_of(found))
        asked = self.grid.plan.generate[job.name]
        drawn = calibrate(self.grid.problems[job.name], model, split=asked.split)
        answered = answer_all(
            module,
            model.tokenizer,
            drawn.windows,
            max_new_tokens=asked.max_new_tokens,
            stop=asked.stop,
            context=context_of(model),
        )
        score = FinalScore(
            task=job.name,
            metric="exact_match",
            value=answered.value,
            stderr=answered.stderr,
            n=answered.n,
        )
        return (score,)


def _row(
    job: _Job,
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


def _failed(job: _Job, blocks: int, seconds: float, error: DepthpruneError) -> FinalRow:
    return _row(job, blocks, seconds, error=only_line(error))
