"""Judging finalists: each on every task and every set of problems, nothing twice.

A line is written as each ends; on the workers of a cluster, when a worker is done with a set.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from depthprune.calibration import seen_from
from depthprune.engine.cluster import Cluster
from depthprune.engine.shipping import on_worker
from depthprune.errors import DepthpruneError
from depthprune.models.loading import Model, load
from depthprune.progress import SILENT, Progress
from depthprune.pruning.output import dense_checkpoint
from depthprune.study.finalist_judge import FinalJob, FinalJudge, draw_problems, failed
from depthprune.study.finalists import FINALS, FINALS_NAME, FinalKey, FinalRow, choose_finalists
from depthprune.study.finalists_on_workers import FinalFactory, rows_of
from depthprune.study.grid import Grid
from depthprune.study.harness import require_harness
from depthprune.study.jsonl import Outcome
from depthprune.study.table import Row


@dataclass(frozen=True)
class Finals:
    """The finalists of a study, being judged into its folder.

    Attributes:
        grid: The study's.
        folder: Where the table lies.
        progress: Where the work shows itself.
        loader: Loads a model by its name.
        cluster: Whose workers judge; None judges here.
    """

    grid: Grid
    folder: Path
    progress: Progress = SILENT
    loader: Callable[..., Model] = load
    cluster: Cluster | None = None

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
        # Only looked at: another process may be writing it.
        if self.wanted and self.table.exists() and self.table.read_bytes().strip():
            FINALS.read(self.table, self.fingerprint)

    def run(self, rows: Sequence[Row]) -> Outcome:
        """Judge the finalists among some cells on what they have not been judged on yet.

        Raises:
            UsageError: As `check`.
        """
        if not self.wanted:
            return Outcome(0, 0, 0)
        self.check()
        known = FINALS.resume(self.table, self.fingerprint)
        keys = {row.key for row in known}
        jobs = [
            FinalJob(finalist, kind, name, task)
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
        if self.cluster is not None and jobs:
            self._in_order(jobs)
        return Outcome(done, failed, len(jobs))

    def _pieces(self) -> Iterator[tuple[str, str, str]]:
        named = zip(self.grid.plan.tasks, self.grid.tasks, strict=True)
        yield from (("task", name, task) for name, task in named)
        yield from (("generate", name, "") for name in self.grid.problems)

    def _rows(self, jobs: Sequence[FinalJob]) -> Iterator[FinalRow]:
        for _, of_model in itertools.groupby(jobs, key=lambda job: job.finalist.model):
            left = {_key(job): job for job in of_model}
            try:
                for row in self._rows_of(list(left.values())):
                    del left[row.key]
                    yield row
            except DepthpruneError as error:
                yield from (failed(job, max(job.finalist.k, 1), error) for job in left.values())

    def _rows_of(self, jobs: Sequence[FinalJob]) -> Iterator[FinalRow]:
        """Those of one model."""
        plan = self.grid.plan
        place = self.grid.place(jobs[0].finalist.model)
        model = self.loader(place, dtype=plan.dtype, device=plan.device)
        problems = draw_problems(self.grid, model)
        sets = [
            tuple(of_set) for _, of_set in itertools.groupby(jobs, key=lambda j: j.finalist.removed)
        ]
        if self.cluster is not None:
            load = on_worker(self.cluster, model, place)
            factory = FinalFactory(load, plan, problems, self.folder)
            yield from rows_of(self.cluster, factory, model, sets)
            return
        with dense_checkpoint(model, self.folder / "finalists", progress=self.progress) as dense:
            judge = FinalJudge(plan, model, dense, problems, self.folder)
            for of_set in sets:
                yield from judge.rows(of_set)

    def _in_order(self, jobs: Sequence[FinalJob]) -> None:
        """Give what was added to the table the order of one process, which workers do not keep."""
        places = {_key(job): place for place, job in enumerate(jobs)}
        rows = FINALS.read(self.table, self.fingerprint)[1]
        FINALS.write(
            self.table, self.fingerprint, sorted(rows, key=lambda row: places.get(row.key, -1))
        )


def _key(job: FinalJob) -> FinalKey:
    return job.finalist.model, job.finalist.removed, job.kind, job.name
