"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears only after parity holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from depthprune.calibration import Calibration
from depthprune.cli.console import TerminalProgress
from depthprune.cli.healing import forget
from depthprune.cli.prune_search import Measured, measure_task
from depthprune.cli.prune_task import Task, prepare
from depthprune.cli.records import (
    calibration_record,
    search_record,
    size_record,
    source_model,
)
from depthprune.cli.session import Loading, open_memo
from depthprune.cli.written import Writing, Written
from depthprune.evaluator import Racing
from depthprune.manifest import Manifest, versions
from depthprune.models.loading import Model
from depthprune.study.judge import estimate


@dataclass(frozen=True)
class PruneJob:
    """Everything that `prune` was asked for."""

    loading: Loading
    out: Path
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

    def run(self) -> Manifest:
        """Do it all.

        Returns:
            The manifest that was written.

        Raises:
            DepthpruneError: If any step fails; then OUT is as it was before.
        """
        task = self.prepare()
        with open_memo(self.memo, task.model.source) as memo:
            measured = measure_task(self, task, memo)
        writing = Writing(
            out=self.out,
            overwrite=self.overwrite,
            loading=self.loading,
            bench=self.bench,
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

    def prepare(self) -> Task:
        """Check everything, draw the calibration and load the model.

        Raises:
            DepthpruneError: If anything that was asked for cannot be.
        """
        return prepare(self)

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
            device=model.device,
            calibration=[calibration_record(part) for part in calibration.parts],
            objective=evaluator.objective.name,
            search=search_record(
                result, self.max_increase, None if self.search_with_recovery else self.racing
            ),
            dense=measured.dense,
            pruned=estimate(result.score, evaluator.objective),
            blocks=measured.blocks,
            path=measured.path,
            draws=measured.draws,
            held_out=measured.held_out,
            recovery=measured.recovered.record if measured.recovered else None,
            size=size_record(model, written.surgery),
            speed=written.speed,
            parity=written.parity,
            sample=written.sample,
            versions=versions(),
            files=list(written.surgery.files),
        )
