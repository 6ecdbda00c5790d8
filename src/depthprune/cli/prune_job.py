"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears as soon as parity holds, and what is measured
of it afterwards is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from depthprune.calibration import Calibration
from depthprune.claims import Claim, claimed
from depthprune.cli.console import TerminalProgress
from depthprune.cli.dry_run import foretell
from depthprune.cli.healing import forget
from depthprune.cli.prune_search import Measured, measure_task
from depthprune.cli.prune_task import Task, check, prepare
from depthprune.cli.records import (
    calibration_record,
    search_record,
    size_record,
    source_model,
)
from depthprune.cli.session import Loading, open_memo
from depthprune.cli.written import BENCH_SECONDS, Writing, Written
from depthprune.errors import UsageError
from depthprune.evaluator import Racing
from depthprune.manifest import Manifest, versions
from depthprune.models.loading import Model
from depthprune.outputs import is_file_output
from depthprune.study.judge import estimate


@dataclass(frozen=True)
class PruneJob:
    """Everything that `prune` was asked for."""

    loading: Loading
    out: Path | None
    k: int | None
    max_increase: float | None
    specs: tuple[str, ...]
    objective: str
    search: str
    budget: str | None
    seed: int
    protect: str
    prompt: str
    bench: bool
    memory: int | None
    memo: str | None
    racing: Racing | None
    draws: int
    overwrite: bool
    command: str
    progress: TerminalProgress
    recover: str | None = None
    also: tuple[str, ...] = ()
    search_with_recovery: bool = False
    bench_seconds: float = BENCH_SECONDS

    def run(self) -> Manifest:
        """Do it all.

        Returns:
            The manifest that was written.

        Raises:
            DepthpruneError: If any step up to the proof fails; then OUT is as it was before.
        """
        asked = check(self)
        with claimed(self.target, overwrite=self.overwrite) as claim:
            task = prepare(self, asked)
            foretell(self, task)
            return self._write(claim, task)

    def _write(self, claim: Claim, task: Task) -> Manifest:
        with open_memo(self.memo, task.model.source) as memo:
            measured = measure_task(self, task, memo)
        writing = Writing(
            claim=claim,
            loading=self.loading,
            bench=self.bench,
            seconds=self.bench_seconds,
            prompt=self.prompt,
            seed=self.seed,
            progress=self.progress,
        )
        manifest = writing.write(
            task.model,
            measured.result.removed,
            measured.recovered,
            lambda written: self._manifest(task.model, task.calibration, measured, written),
        )
        forget(measured.recovered.recovery if measured.recovered else None)
        return manifest

    @property
    def target(self) -> Path:
        """What `-o` names.

        Raises:
            UsageError: If it names nothing, as in a dry run.
        """
        if self.out is None:
            raise UsageError("-o: names nothing to write")
        return self.out

    @property
    def writes_file(self) -> bool:
        """Whether the output is one file."""
        return self.out is not None and is_file_output(self.out)

    def prepare(self) -> Task:
        """Check everything, draw the calibration and load the model.

        Raises:
            DepthpruneError: If anything that was asked for cannot be.
        """
        return prepare(self, check(self))

    def _manifest(
        self,
        model: Model,
        calibration: Calibration,
        measured: Measured,
        written: Written,
    ) -> Manifest:
        evaluator, result = measured.evaluator, measured.result
        return Manifest(
            schema=1,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.command,
            model=source_model(model.source, model.blocks),
            removed=list(result.removed),
            kept=list(written.surgery.kept),
            dtype=written.surgery.dtype,
            measured_dtype=model.dtype,
            measured_dtype_reason=model.dtype_reason,
            device=model.device,
            calibration=[calibration_record(part) for part in calibration.parts],
            objective=evaluator.objective.name,
            search=search_record(
                result,
                self.max_increase,
                None if self.search_with_recovery else self.racing,
                evaluator.rounding,
            ),
            dense=measured.dense,
            pruned=estimate(result.score, evaluator.objective),
            blocks=measured.blocks,
            path=measured.path,
            draws=measured.draws,
            held_out=measured.held_out,
            recovery=measured.recovered.record if measured.recovered else None,
            size=size_record(model, written.surgery),
            parity=written.parity,
            versions=versions(),
            files=list(written.surgery.files),
        )
