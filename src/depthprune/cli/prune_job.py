"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears only after parity holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from torch import nn

from depthprune.calibration import Calibration
from depthprune.cli.console import TerminalProgress, note
from depthprune.cli.healing import forget
from depthprune.cli.prune_search import Measured, measure_task
from depthprune.cli.prune_task import Task, prepare
from depthprune.cli.records import (
    calibration_record,
    search_record,
    size_record,
    source_model,
)
from depthprune.cli.recovering import (
    Mended,
)
from depthprune.cli.session import Loading, open_memo
from depthprune.evaluator import Racing
from depthprune.manifest import (
    Manifest,
    ParityRecord,
    Sample,
    Speed,
    versions,
)
from depthprune.models.loading import Model
from depthprune.models.parity import reload, verify
from depthprune.models.pruned_output import pruned_output
from depthprune.models.speed import (
    NEW_TOKENS,
    PROMPT_TOKENS,
    REPEATS,
    continuation,
    measure,
    spread,
)
from depthprune.models.surgery import Surgery
from depthprune.outputs import MANIFEST_NAME, placed
from depthprune.report.publish import write_report
from depthprune.study.judge import estimate

_TEMPERATURE = 0.7
_SAMPLE_TOKENS = 40


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
        manifest = self._write(task.model, task.calibration, measured)
        forget(measured.recovered.recovery if measured.recovered else None)
        return manifest

    def prepare(self) -> Task:
        """Check everything, draw the calibration and load the model.

        Raises:
            DepthpruneError: If anything that was asked for cannot be.
        """
        return prepare(self)

    def _write(self, model: Model, calibration: Calibration, measured: Measured) -> Manifest:
        removed = measured.result.removed
        mended = Mended(measured.recovered, model)
        with pruned_output(
            model,
            removed,
            self.out,
            replace=mended.replacements,
            overwrite=self.overwrite,
            progress=self.progress,
        ) as (stage, surgery):
            for warning in surgery.warnings:
                note(f"warning: {warning}")
            with self.progress.step("reloading the written checkpoint", None, ""):
                module = reload(
                    stage,
                    model.dtype,
                    model.device,
                    stream=self.loading.stream,
                    device_map=self.loading.device_map,
                )
            with mended.in_place():
                parity = verify(model, module, removed, progress=self.progress)
            speed = self._speed(model, module) if self.bench else None
            manifest = self._manifest(model, calibration, measured, surgery, parity, speed, module)
            manifest = write_report(manifest, stage)
            manifest.write(placed(stage, MANIFEST_NAME))
        return manifest

    def _speed(self, model: Model, module: nn.Module) -> Speed:
        before, after = measure([model.module, module], progress=self.progress)
        return Speed(
            prefill_before=spread(before.prefill),
            prefill_after=spread(after.prefill),
            decode_before=spread(before.decode),
            decode_after=spread(after.decode),
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=NEW_TOKENS,
            repeats=REPEATS,
        )

    def _sample(self, model: Model, module: nn.Module) -> Sample | None:
        if self.loading.stream:
            return None  # every token would read all the weights
        before, after = (
            continuation(
                each,
                model.tokenizer,
                self.prompt,
                seed=self.seed,
                temperature=_TEMPERATURE,
                new_tokens=_SAMPLE_TOKENS,
            )
            for each in (model.module, module)
        )
        return Sample(
            prompt=self.prompt,
            before=before,
            after=after,
            seed=self.seed,
            temperature=_TEMPERATURE,
        )

    def _manifest(
        self,
        model: Model,
        calibration: Calibration,
        measured: Measured,
        surgery: Surgery,
        parity: ParityRecord,
        speed: Speed | None,
        module: nn.Module,
    ) -> Manifest:
        evaluator, result = measured.evaluator, measured.result
        return Manifest(
            schema=1,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=self.command,
            model=source_model(model.source, model.blocks),
            removed=list(result.removed),
            kept=list(surgery.kept),
            dtype=surgery.dtype,
            measured_dtype=model.dtype,
            device=model.device,
            calibration=[calibration_record(part) for part in calibration.parts],
            objective=evaluator.objective.name,
            search=search_record(result, self.max_increase, self.racing),
            dense=measured.dense,
            pruned=estimate(result.score, evaluator.objective),
            blocks=measured.blocks,
            path=measured.path,
            draws=measured.draws,
            held_out=measured.held_out,
            recovery=measured.recovered.record if measured.recovered else None,
            size=size_record(model, surgery),
            speed=speed,
            parity=parity,
            sample=self._sample(model, module),
            versions=versions(),
            files=list(surgery.files),
        )
