"""What `prune` and `recover` do alike once the set is known: cut, reload, prove, time, sample.

The caller makes of it a manifest, which is put with its page beside the checkpoint before anything
is published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from depthprune.cli.console import TerminalProgress, note
from depthprune.cli.recovering import Mended, Recovered
from depthprune.cli.session import Loading
from depthprune.evaluator import RemovedSet
from depthprune.manifest import Manifest, ParityRecord, Sample, Speed
from depthprune.models.checkpoint import Checkpoint
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

PROMPT = "The most important thing about a good library is"
_TEMPERATURE = 0.7
_SAMPLE_TOKENS = 40


@dataclass(frozen=True)
class Written:
    """A checkpoint that was written, and what was found of it."""

    surgery: Surgery
    parity: ParityRecord
    speed: Speed | None
    sample: Sample | None


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is to be written, and what is to be measured of it.

    Attributes:
        out: What `-o` names.
        overwrite: Replace an earlier output.
        loading: How the original was loaded; the checkpoint is reloaded alike.
        bench: Whether speed is measured.
        prompt: What both models continue.
        seed: Of the sample.
        progress: Where the work shows itself.
    """

    out: Path
    overwrite: bool
    loading: Loading
    bench: bool
    prompt: str
    seed: int
    progress: TerminalProgress

    def write(
        self,
        model: Model,
        removed: RemovedSet,
        recovered: Recovered | None,
        manifest: Callable[[Written], Manifest],
        dense: Checkpoint | None = None,
    ) -> Manifest:
        """Cut, prove and measure, and publish if all of it went well.

        Args:
            model: The loaded original.
            removed: Original block numbers.
            recovered: What is folded into the weights, if anything.
            manifest: Makes the record of what was done.
            dense: The original's checkpoint, where it is at hand already.

        Returns:
            The manifest that was written.

        Raises:
            DepthpruneError: If any step fails; then OUT is as it was before.
        """
        mended = Mended(recovered, model)
        with pruned_output(
            model,
            removed,
            self.out,
            dense=dense,
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
            written = Written(surgery, parity, speed, self._sample(model, module))
            record = write_report(manifest(written), stage)
            record.write(placed(stage, MANIFEST_NAME))
        return record

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
