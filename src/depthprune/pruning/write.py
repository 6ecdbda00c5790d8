"""What `prune` and `recover` do alike once the set is known: cut, reload, prove, publish, measure.

The checkpoint is published as soon as it is proven, with a manifest that the caller makes and its
page. What is measured of it afterwards, a sample and the speed, is added to both within a bounded
time; should a part of that fail or be interrupted, it alone is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.surgery import Surgery
from depthprune.claims import Claim
from depthprune.errors import OutputError, first_line
from depthprune.evaluator import RemovedSet
from depthprune.manifest import AnswerRecord, Manifest, ParityRecord, Sample, Speed
from depthprune.models.loading import Model
from depthprune.models.parity import reload_like, verify
from depthprune.models.speed import (
    PROMPT_TOKENS,
    continuation,
    measure,
    spread,
)
from depthprune.progress import Progress, note, warn
from depthprune.pruning.answers import Questions, judge_answers, warnings_of
from depthprune.pruning.output import pruned_output
from depthprune.pruning.recovering.recovery_step import Recovered, RecoveredModel
from depthprune.pruning.session import Loading
from depthprune.report.publish import report_files, write_report

_TEMPERATURE = 0.7
_SAMPLE_TOKENS = 40


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A checkpoint that was written and proven."""

    surgery: Surgery
    parity: ParityRecord


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is to be written, and what is to be measured of it.

    Attributes:
        claim: The output, taken for this process.
        loading: How the original was loaded; the checkpoint is reloaded alike.
        bench: Whether speed is measured.
        seconds: What measuring the speed may take, and what the sample may.
        prompt: What both models continue.
        seed: Of the sample.
        progress: Where the work shows itself.
        questions: What the models answer in words, if anything.
        link: Whether what does not change is shared with the original's folder.
    """

    claim: Claim
    loading: Loading
    bench: bool
    seconds: float
    prompt: str
    seed: int
    progress: Progress
    questions: Questions | None = None
    link: bool = False

    def write(
        self,
        model: Model,
        removed: RemovedSet,
        recovered: Recovered | None,
        manifest: Callable[[WrittenCheckpoint], Manifest],
        dense: Checkpoint | None = None,
    ) -> Manifest:
        """Cut and prove, publish if both went well, and measure what was published.

        Args:
            model: The loaded original.
            removed: Original block numbers.
            recovered: What is folded into the weights, if anything.
            manifest: Makes the record of what was done.
            dense: The original's checkpoint, where it is at hand already.

        Returns:
            The manifest that was written.

        Raises:
            DepthpruneError: If it cannot be cut, proven or published; then OUT is as it was before.
        """
        weights = RecoveredModel(recovered, model)
        with pruned_output(
            model,
            removed,
            self.claim,
            dense=dense,
            replace=weights.replacements,
            link=self.link,
            progress=self.progress,
        ) as (stage, surgery):
            for warning in surgery.warnings:
                warn(warning)
            module = self._reload(model, stage)
            with weights.in_place():
                parity = verify(model, module, removed, progress=self.progress)
            staged = self.claim.placed
            record = write_report(manifest(WrittenCheckpoint(surgery, parity)), staged)
            record.write(staged.manifest)
        return self._measure(model, module, record)

    def _reload(self, model: Model, place: Path) -> nn.Module:
        with self.progress.step("reloading the written checkpoint", None, ""):
            return reload_like(
                model,
                place,
                stream=self.loading.stream,
                device_map=self.loading.device_map,
            )

    def _measure(self, model: Model, module: nn.Module, record: Manifest) -> Manifest:
        """Add to what stands what can be measured of it; each costs only itself."""
        steps: dict[str, Callable[[Model, nn.Module], Any]] = {}
        if not self.loading.stream:  # of which every token would read all the weights
            steps["sample"] = self._sample
        if self.bench:
            steps["speed"] = self._speed
        if self.bench and self.loading.stream:
            module = self._reload(model, self.claim.place)  # its files have moved
        questions = self.questions
        if questions is not None:
            steps["answers"] = partial(self._answers, questions, record)
        found: dict[str, Any] = {}
        try:
            for name, step in steps.items():
                missing = f"the {name} {'were' if name == 'answers' else 'was'} not measured"
                try:
                    found[name] = step(model, module)
                except KeyboardInterrupt:
                    note(f"the checkpoint is whole and proven; of it {missing}")
                    raise
                except Exception as error:
                    warn(f"{missing} ({first_line(error)})")
        finally:
            amended = record.model_copy(update=found)
            if found and not self._amend(amended, " and the ".join(found)):
                amended = record
        return amended

    def _answers(
        self, questions: Questions, record: Manifest, model: Model, module: nn.Module
    ) -> list[AnswerRecord]:
        found = judge_answers(
            questions,
            model,
            module,
            tuple(record.removed),
            recovered=record.recovery is not None,
            progress=self.progress,
        )
        for line in warnings_of(found, record.held_out or []):
            warn(line)
        return found

    def _amend(self, record: Manifest, added: str) -> bool:
        """Write the record and its page anew; whether that went well."""
        target = self.claim.target
        try:
            self.claim.amend({**report_files(record, target), target.manifest.name: record.text()})
        except OutputError as error:
            if not self.claim.stands:
                raise
            warn(f"the checkpoint is whole and proven; to it the {added} cannot be added: {error}")
            return False
        return True

    def _speed(self, model: Model, module: nn.Module) -> Speed:
        before, after = measure(
            [model.module, module], seconds=self.seconds, progress=self.progress
        )
        return Speed(
            prefill_before=spread(before.prefill),
            prefill_after=spread(after.prefill),
            decode_before=spread(before.decode),
            decode_after=spread(after.decode),
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=min(before.new_tokens, after.new_tokens),
            repeats=len(before.decode),
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
                seconds=self.seconds / 2,
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
