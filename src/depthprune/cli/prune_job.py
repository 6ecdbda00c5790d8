"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears only after parity holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

from depthprune.calibration import Calibration, parse_calibration
from depthprune.cli.console import TerminalProgress, note
from depthprune.cli.records import (
    calibration_record,
    search_record,
    size_record,
    source_model,
)
from depthprune.cli.recovering import (
    Recovered,
    check_method,
    check_search,
    check_source,
    fit_and_judge,
    further_texts,
    to_write,
)
from depthprune.cli.session import DEFAULT_CALIBRATION, Loading, mixture, open_memo, read_tokenizer
from depthprune.errors import ModelError, UsageError
from depthprune.evaluator import Evaluator, Memo, RemovedSet
from depthprune.manifest import (
    BlockScore,
    Estimate,
    HeldOut,
    Manifest,
    ParityRecord,
    PathPoint,
    Sample,
    Speed,
    versions,
)
from depthprune.models.architectures import find
from depthprune.models.loading import Model
from depthprune.models.materialize import dense_checkpoint
from depthprune.models.parity import reload, verify
from depthprune.models.removal import parse_blocks
from depthprune.models.source import ModelSource
from depthprune.models.speed import (
    NEW_TOKENS,
    PROMPT_TOKENS,
    REPEATS,
    continuation,
    measure,
    spread,
)
from depthprune.models.surgery import Surgery, write_pruned
from depthprune.objectives import OBJECTIVES, Objective
from depthprune.outputs import MANIFEST_NAME, check_target, staged
from depthprune.recovery import RecoveringScorer, require_tokens
from depthprune.report.publish import write_report
from depthprune.search import SEARCHES, Result, make_space, search
from depthprune.study.judge import Judge, SizeRule, block_scores, estimate, path_points

_TEMPERATURE = 0.7
_SAMPLE_TOKENS = 40


@dataclass(frozen=True)
class Measured:
    """What was learned of the removed set before anything is written."""

    result: Result
    evaluator: Evaluator
    dense: Estimate
    blocks: list[BlockScore]
    held_out: list[HeldOut]
    path: list[PathPoint] | None
    recovered: Recovered | None


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
    seed: int
    protect: str
    prompt: str
    bench: bool
    memory: int | None
    memo: str | None
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
        objective = OBJECTIVES.get(self.objective)()
        self._check_search()
        check_method(self.recover, self.also)
        if self.search_with_recovery:
            check_search(self.recover, self.search, self.max_increase is not None)
        parse_calibration(self.specs or (DEFAULT_CALIBRATION,))
        check_target(self.out, overwrite=self.overwrite)
        source = self.loading.find()
        self._check_source(source)
        if self.recover is not None:
            check_source(source)
        protect = self._protected(source)
        k = self.k
        if k is None:
            k = source.blocks - max(1, len(protect))
            if k < 1:
                raise UsageError("--protect: leaves no block that may go; protect fewer")
        make_space(source.blocks, k, protect)
        reader = read_tokenizer(source, self.progress)
        calibration = mixture(self.specs, reader, self.progress)
        calibration.held_out()
        further = further_texts(self.also, reader)
        model = self.loading.load(source, reader.tokenizer, self.progress)
        make_space(model.blocks, k, protect)
        if self.recover is not None:
            require_tokens(model, calibration)
        with open_memo(self.memo, source) as memo:
            measured = self._measure(model, calibration, objective, k, protect, memo, further)
        return self._write(model, calibration, measured)

    def _check_search(self) -> None:
        algorithm = SEARCHES.get(self.search)()
        if self.max_increase is not None and not algorithm.grows:
            raise UsageError(
                f"--search {self.search}: its sets do not grow one by one, which --max-increase "
                "needs; take greedy or one-shot, or give -k"
            )

    def _protected(self, source: ModelSource) -> RemovedSet:
        """The blocks that the user protects, and those without which its type makes no model."""
        asked = parse_blocks(self.protect, "--protect") if self.protect else ()
        row = find(source.model_type)
        needed = {block % source.blocks for block in row.keep} if row is not None else set()
        if needed.difference(asked):
            which = ", ".join(map(str, sorted(needed)))
            note(f"note: block {which} stays: a {source.model_type} model needs it")
        return tuple(sorted({*asked, *needed}))

    def _check_source(self, source: ModelSource) -> None:
        """Refuse before the search what surgery would refuse after it."""
        if source.gguf is None and self.out.exists() and self.out.samefile(source.folder):
            raise UsageError(f"-o {self.out}: is the model's own folder; choose another")
        row = find(source.model_type)
        if row is not None and row.status == "refused":
            raise ModelError(f"model_type {row.model_type}: cannot be depth-pruned; {row.why}")
        if source.checkpoint is not None:
            _ = source.checkpoint.block_prefix

    def _measure(
        self,
        model: Model,
        calibration: Calibration,
        objective: Objective,
        k: int,
        protect: RemovedSet,
        memo: Memo | None,
        further: list[Calibration],
    ) -> Measured:
        shared: dict[str, Any] = {"memory": self.memory, "memo": memo, "progress": self.progress}
        evaluator = Evaluator(model, calibration, objective, **shared)
        judge = Judge(model, calibration, objective, **shared)
        rule = None if self.max_increase is None else SizeRule(judge, self.max_increase)
        scorer: Evaluator | RecoveringScorer = evaluator
        if self.search_with_recovery:
            scorer = RecoveringScorer(
                model, calibration, objective, memory=self.memory, progress=self.progress
            )
        result = search(self.search, scorer, k=k, seed=self.seed, protect=protect, enough=rule)
        if scorer is not evaluator:
            # What the search saw is on other windows, and recovered.
            result = replace(result, score=evaluator.score([result.removed])[0].require_finite())
        if rule is not None:
            result = self._shortened(result, rule, evaluator)
        # A path that the search did not score itself is worth its cost only to a size rule.
        known = bool(result.path) and all(evaluator.has_scored(s) for s in result.path)
        path = path_points(result.path, evaluator, judge) if known or rule is not None else None
        free = [block for block in range(model.blocks) if block not in protect]
        found = None
        if self.recover is not None:
            found = fit_and_judge(
                model,
                calibration,
                further,
                objective,
                result.removed,
                in_search=self.search_with_recovery,
                **shared,
            )
        return Measured(
            result=result,
            evaluator=evaluator,
            dense=estimate(evaluator.dense, objective),
            blocks=block_scores(evaluator, free),
            held_out=found.held_out if found else judge.held_out(result.removed),
            path=path,
            recovered=found,
        )

    def _shortened(self, result: Result, rule: SizeRule, evaluator: Evaluator) -> Result:
        if not rule.chosen:
            raise UsageError(
                f"--max-increase: removing any one block raises the held-out loss from "
                f"{rule.dense:.4f} above {rule.limit:.4f}; allow more"
            )
        score = evaluator.score([rule.chosen])[0]
        return replace(result, removed=rule.chosen, score=score, k=len(rule.chosen))

    def _write(self, model: Model, calibration: Calibration, measured: Measured) -> Manifest:
        removed = measured.result.removed
        with (
            staged(self.out, overwrite=self.overwrite) as stage,
            dense_checkpoint(model, self.out, progress=self.progress) as dense,
        ):
            prefix = None
            if model.source.checkpoint is None:
                prefix = f"{model.anatomy.blocks.path}."
            replaced, as_written = to_write(measured.recovered, model, dense, prefix)
            surgery = write_pruned(
                dense,
                removed,
                stage,
                block_prefix=prefix,
                replace=replaced,
                progress=self.progress,
            )
            for warning in surgery.warnings:
                note(f"warning: {warning}")
            with self.progress.step("reloading the written checkpoint", None, ""):
                module = reload(stage, model.dtype, model.device)
            with as_written:
                parity = verify(model, module, removed, progress=self.progress)
            speed = self._speed(model, module) if self.bench else None
            manifest = self._manifest(model, calibration, measured, surgery, parity, speed, module)
            manifest = write_report(manifest, stage)
            manifest.write(stage / MANIFEST_NAME)
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

    def _sample(self, model: Model, module: nn.Module) -> Sample:
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
            search=search_record(result, self.max_increase),
            dense=measured.dense,
            pruned=estimate(result.score, evaluator.objective),
            blocks=measured.blocks,
            path=measured.path,
            held_out=measured.held_out,
            recovery=measured.recovered.record if measured.recovered else None,
            size=size_record(model, surgery),
            speed=speed,
            parity=parity,
            sample=self._sample(model, module),
            versions=versions(),
            files=list(surgery.files),
        )
