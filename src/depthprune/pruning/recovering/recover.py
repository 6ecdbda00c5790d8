"""What `recover` does: check that original and checkpoint belong together, fit, write it anew.

The output is cut from the original anew, with the recovered weights in place: byte for byte what
`prune --recover` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from depthprune.calibration import CalibrationSpec, check_files, parse_calibration
from depthprune.claims import Claim, claimed
from depthprune.errors import UsageError
from depthprune.manifest import Manifest, versions
from depthprune.models.loading import Model
from depthprune.outputs import OutputTarget, as_target, check_target
from depthprune.progress import SILENT, Progress
from depthprune.pruning.answers import Questions, WantedAnswers, draw_questions, read_answers
from depthprune.pruning.options import BENCH_SECONDS, PROMPT, check_bench_seconds
from depthprune.pruning.output import block_prefix, dense_checkpoint
from depthprune.pruning.python_call import python_call
from depthprune.pruning.records import size_record
from depthprune.pruning.recovering.pruned_checkpoint import PrunedCheckpoint
from depthprune.pruning.recovering.recovery_step import (
    Recovered,
    fit_and_judge,
    further_texts,
    read_recovery,
)
from depthprune.pruning.recovering.training_runs import check_enough, forget
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    mixture,
    open_memo,
    read_tokenizer,
    several,
)
from depthprune.pruning.space import require_space
from depthprune.pruning.write import (
    Writing,
    WrittenCheckpoint,
)
from depthprune.recovery import Method


def recover_checkpoint(
    checkpoint: str | Path,
    original: str | Path,
    *,
    out: str | Path,
    method: str = "linear",
    calibration: str | Sequence[str] = (),
    also: str | Sequence[str] = (),
    answers: str | Sequence[str] = (),
    answer_tokens: int | None = None,
    prompt: str | None = None,
    bench: bool | None = None,
    bench_seconds: float = BENCH_SECONDS,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    stream: bool = False,
    memory: int | None = None,
    memo: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Repair a checkpoint that was pruned before, prove it and write it anew.

    Args:
        checkpoint: A folder that depthprune pruned.
        original: The model that it was pruned from: a folder, a hub id, a `.gguf` file, or `demo`.
        out: The folder that is written.
        method: `linear`, `magnitude`, `lora` or `last`, with settings.
        calibration: Specs of what is fitted or trained on; several are mixed.
        also: Further texts that recovery is judged on.
        answers: Specs of prompts with answers, which the models answer in words.
        answer_tokens: Tokens that such an answer may have; by default 256.
        prompt: What both models continue in the report; by default as before.
        bench: Measure speed before and after; by default unless streamed.
        bench_seconds: How long that may take.
        dtype: `auto` (as when it was pruned), `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        device_map: How the model is divided among several devices.
        stream: Read blocks from disk while they run.
        memory: Bytes that hidden states may take.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        overwrite: Replace what `out` holds.
        command: How the manifest says it was made; by default this call.
        progress: Where long work shows itself.

    Returns:
        The manifest that was written beside the checkpoint.

    Raises:
        DepthpruneError: If any step up to the proof fails; then `out` is as it was before.
    """
    given = dict(locals())
    check_bench_seconds(bench_seconds)
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt: expected some words to continue, got none")
    return RecoverJob(
        checkpoint=Path(checkpoint),
        loading=Loading(
            original, dtype, device, revision, trust_remote_code, allow_pickle, stream,
            device_map,
        ),
        out=as_target(out),
        method=method,
        specs=several(calibration),
        also=several(also),
        prompt=prompt,
        bench=not stream if bench is None else bench,
        memory=memory,
        memo=memo,
        overwrite=overwrite,
        command=command or python_call("recover_checkpoint", recover_checkpoint, given),
        progress=progress,
        bench_seconds=bench_seconds,
        answers=several(answers),
        answer_tokens=answer_tokens,
    ).run()  # fmt: skip


@dataclass(frozen=True)
class RecoverJob:
    """Everything that `recover` was asked for."""

    checkpoint: Path
    loading: Loading
    out: OutputTarget
    method: str
    specs: tuple[str, ...]
    also: tuple[str, ...]
    prompt: str | None
    bench: bool
    memory: int | None
    memo: str | Path | None
    overwrite: bool
    command: str
    progress: Progress
    bench_seconds: float = BENCH_SECONDS
    answers: tuple[str, ...] = ()
    answer_tokens: int | None = None

    def run(self) -> Manifest:
        """Do it all.

        Returns:
            The manifest that was written.

        Raises:
            DepthpruneError: If any step up to the proof fails; then OUT is as it was before.
        """
        specs = parse_calibration(self.specs or (DEFAULT_CALIBRATION,))
        recovery = read_recovery(self.method, self.also, self.out, stream=self.loading.stream)
        assert recovery.method is not None
        answers = read_answers(self.answers, self.answer_tokens, stream=self.loading.stream)
        check_target(self.out, overwrite=self.overwrite)
        check_files([*specs, *recovery.also, *answers.specs])
        with claimed(self.out, overwrite=self.overwrite) as claim:
            return self._write(claim, specs, recovery.method, recovery.also, answers)

    def _write(
        self,
        claim: Claim,
        specs: Sequence[CalibrationSpec],
        method: Method,
        also: Sequence[CalibrationSpec],
        answers: WantedAnswers,
    ) -> Manifest:
        pruned = PrunedCheckpoint.read(self.checkpoint)
        before = pruned.manifest
        source = self.loading.find()
        pruned.require_recoverable(source, self.out)
        removed = pruned.removed(source.blocks)
        require_space(source, self.out, source.blocks - len(removed))
        loading = self._loading(before)
        reader = read_tokenizer(source, self.progress, loading)
        calibration = mixture(specs, reader, self.progress)
        calibration.held_out()
        further = further_texts(also, reader)
        questions = draw_questions(answers, reader)
        model = loading.load(source, reader.tokenizer, self.progress)
        check_enough(model, calibration, method, further, source.blocks - len(removed))
        with dense_checkpoint(model, self.out.path, progress=self.progress) as dense:
            prefix = block_prefix(model) or dense.block_prefix
            pruned.require_unchanged(dense, removed, prefix, self.progress)
            with open_memo(self.memo, source) as memo:
                found = fit_and_judge(
                    model,
                    calibration,
                    further,
                    before.objective or "nll",
                    removed,
                    method,
                    self.out.path,
                    memory=self.memory,
                    memo=memo,
                    progress=self.progress,
                )
            writing = self._writing(claim, before, loading, questions)
            manifest = writing.write(
                model,
                removed,
                found,
                lambda written: self._recovered(before, model, found, written),
                dense,
            )
        forget(found.recovery)
        return manifest

    def _loading(self, before: Manifest) -> Loading:
        """As before, unless asked otherwise: an unpacked GGUF is written in the dtype it had."""
        if self.loading.dtype != "auto" or before.measured_dtype is None:
            return self.loading
        return replace(self.loading, dtype=before.measured_dtype)

    def _writing(
        self, claim: Claim, before: Manifest, loading: Loading, questions: Questions | None
    ) -> Writing:
        """As the checkpoint was written, unless asked otherwise: with the same prompt."""
        sample = before.sample
        return Writing(
            claim=claim,
            loading=loading,
            bench=self.bench,
            seconds=self.bench_seconds,
            prompt=self.prompt or (sample.prompt if sample else PROMPT),
            seed=sample.seed if sample else 0,
            progress=self.progress,
            questions=questions,
        )

    def _recovered(
        self, before: Manifest, model: Model, found: Recovered, written: WrittenCheckpoint
    ) -> Manifest:
        """The checkpoint's manifest with what was measured now in place of what was then."""
        return before.model_copy(
            update={
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "command": self.command,
                "answers": None,
                "measured_dtype": model.dtype,
                "measured_dtype_reason": before.measured_dtype_reason
                if model.dtype == before.measured_dtype
                else model.dtype_reason,
                "device": model.device,
                "objective": before.objective or "nll",
                "held_out": found.held_out,
                "recovery": found.record,
                "size": size_record(model, written.surgery),
                "speed": None,
                "parity": written.parity,
                "sample": None,
                "versions": versions(),
                "files": list(written.surgery.files),
            }
        )
