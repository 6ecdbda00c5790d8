"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears as soon as parity holds, and what is measured
of it afterwards is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from depthprune.claims import Claim, claimed
from depthprune.engine import Engine, parse_engine
from depthprune.errors import UsageError
from depthprune.evaluator import Racing
from depthprune.evaluator.evaluator import DEFAULT_RACING
from depthprune.manifest import Manifest, versions
from depthprune.models.loading import Model
from depthprune.progress import SILENT, Progress
from depthprune.pruning.held_out import estimate
from depthprune.pruning.measure import Measured, measure_task
from depthprune.pruning.options import PruneJob
from depthprune.pruning.prepare import (
    PruneTask,
    check,
    prepare,
)
from depthprune.pruning.records import (
    calibration_record,
    search_record,
    size_record,
    source_model,
)
from depthprune.pruning.rehearse import foretell
from depthprune.pruning.session import Loading, open_memo
from depthprune.pruning.target.options import DEFAULT_SPLIT, TargetJob
from depthprune.pruning.training_runs import forget
from depthprune.pruning.workers import workers_for
from depthprune.pruning.write import BENCH_SECONDS, PROMPT, Writing, WrittenCheckpoint


def prune(
    model: str | Path,
    k: int | None = None,
    *,
    out: str | Path,
    calibration: str | Sequence[str] = (),
    max_increase: float | None = None,
    objective: str = "nll",
    search: str = "greedy",
    seed: int = 0,
    budget: str | None = None,
    protect: str | Sequence[int] = "",
    draws: int = 1,
    racing: Racing | None = DEFAULT_RACING,
    recover: str | None = None,
    also: Sequence[str] = (),
    search_with_recovery: bool = False,
    target: str | Sequence[str] = (),
    target_split: str = DEFAULT_SPLIT,
    target_objective: str | None = None,
    portfolio: str | Path | None = None,
    keep_general: float | None = None,
    prompt: str = PROMPT,
    bench: bool | None = None,
    bench_seconds: float = BENCH_SECONDS,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    stream: bool = False,
    memory: int | None = None,
    memo: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
    engine: str | Engine | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Find the blocks that can go, remove them, prove it and write a checkpoint: the whole job.

    It does what the verb does and prints nothing; what a user may want to know is logged under
    `depthprune`.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        k: How many blocks go; or else `max_increase`.
        out: The folder, or the `.gguf` file, that is written.
        calibration: Specs such as `text:wiki.txt,windows=64`; several are mixed. By default prose
            and code of the standard library.
        max_increase: The most blocks whose held-out loss grows by no more than this share.
        objective: Such as `nll`, `kl:top=64` or `nll:0.5+cosine:0.5`.
        search: Such as `greedy` or `beam:width=8`.
        seed: Of the search; the calibration's draw has its own.
        budget: What the search may spend, as `200 evaluations` of `--budget`.
        protect: Blocks that stay, `"0,29"` or numbers.
        draws: On how many draws of the calibration the search is run.
        racing: How sure it is of each choice; None scores every set on every window.
        recover: `linear` or `lora`, with settings.
        also: Further texts that recovery is judged on.
        search_with_recovery: Score every set as it is after recovery.
        target: What matters: specs of text, prompts with answers, chats or choices. The
            calibration is then chosen by what keeps it, and each of `calibration` is tried too.
        target_split: Percentages of it that may be calibrated on, choose and judge.
        target_objective: What is measured on it, where not what its kind asks for.
        portfolio: A YAML file of the calibrations that are tried.
        keep_general: By what share more than the best set another may lose on the default text.
        prompt: What both models continue in the report.
        bench: Measure speed before and after; by default unless streamed.
        bench_seconds: How long that may take.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        device_map: How the model is divided among several devices.
        stream: Read blocks from disk while they run.
        memory: Bytes that hidden states may take.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        overwrite: Replace what `out` holds.
        engine: `ray` or `ray://HOST:PORT` to have losses computed by workers of a cluster.
        progress: Where long work shows itself.

    Returns:
        The manifest that was written beside the checkpoint.

    Raises:
        DepthpruneError: If any step up to the proof fails; then `out` is as it was before.
    """
    if not prompt.strip():
        raise UsageError("prompt: expected some words to continue, got none")
    if (k is None) == (max_increase is None):
        raise UsageError("-k: expected either -k K or --max-increase SHARE, one of them")
    specs = (calibration,) if isinstance(calibration, str) else tuple(calibration)
    stay = protect if isinstance(protect, str) else ",".join(map(str, protect))
    loading = Loading(
        str(model), dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    return run(
        PruneJob(
            loading=loading,
            out=Path(out),
            k=k,
            max_increase=max_increase,
            specs=specs,
            objective=objective,
            search=search,
            budget=budget,
            seed=seed,
            protect=stay,
            prompt=prompt,
            bench=not stream if bench is None else bench,
            memory=memory,
            memo=memo,
            racing=racing,
            draws=draws,
            overwrite=overwrite,
            command=_as_python(model, k, out, specs, objective, search),
            progress=progress,
            recover=recover,
            also=tuple(also),
            search_with_recovery=search_with_recovery,
            bench_seconds=bench_seconds,
            wanted=wanted_target(target, target_split, target_objective, portfolio, keep_general),
            engine=parse_engine(engine) if isinstance(engine, str) else engine,
        )
    )


def wanted_target(
    target: str | Sequence[str],
    split: str | None,
    objective: str | None,
    portfolio: str | Path | None,
    keep_general: float | None,
) -> TargetJob | None:
    """What `--for` and the flags that go with it ask for; None without it.

    Raises:
        UsageError: If one of those flags is given without it.
    """
    specs = (target,) if isinstance(target, str) else tuple(target)
    if specs:
        file = None if portfolio is None else str(portfolio)
        return TargetJob(specs, split or DEFAULT_SPLIT, objective, file, keep_general)
    idle = {
        "--for-split": split not in (None, DEFAULT_SPLIT),
        "--for-objective": objective is not None,
        "--portfolio": portfolio is not None,
        "--keep-general": keep_general is not None,
    }
    for flag, given in idle.items():
        if given:
            raise UsageError(f"{flag}: means nothing without --for; name what is to be kept")
    return None


def _as_python(
    model: str | Path,
    k: int | None,
    out: str | Path,
    specs: Sequence[str],
    objective: str,
    search: str,
) -> str:
    """The call as the report shows it, by its main arguments."""
    named = f"calibration={list(specs)!r}, objective={objective!r}, search={search!r}"
    return f"dp.prune({str(model)!r}, {k}, out={str(out)!r}, {named})"


def run(job: PruneJob) -> Manifest:
    """Do it all.

    Returns:
        The manifest that was written.

    Raises:
        DepthpruneError: If any step up to the proof fails; then OUT is as it was before.
    """
    asked = check(job)
    with claimed(job.target, overwrite=job.overwrite) as claim:
        task = prepare(job, asked)
        foretell(job, task)
        return _write(job, claim, task)


def _write(job: PruneJob, claim: Claim, task: PruneTask) -> Manifest:
    with (
        open_memo(job.memo, task.model.source) as memo,
        workers_for(job.engine, job.loading, task.model) as workers,
    ):
        measured = measure_task(job, task, memo, workers)
    writing = Writing(
        claim=claim,
        loading=job.loading,
        bench=job.bench,
        seconds=job.bench_seconds,
        prompt=job.prompt,
        seed=job.seed,
        progress=job.progress,
    )
    manifest = writing.write(
        task.model,
        measured.result.removed,
        measured.recovered,
        lambda written: _manifest(job, task.model, measured, written),
    )
    forget(measured.recovered.recovery if measured.recovered else None)
    return manifest


def _manifest(
    job: PruneJob,
    model: Model,
    measured: Measured,
    written: WrittenCheckpoint,
) -> Manifest:
    evaluator, result = measured.evaluator, measured.result
    return Manifest(
        schema=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=job.command,
        model=source_model(model.source, model.blocks),
        removed=list(result.removed),
        kept=list(written.surgery.kept),
        dtype=written.surgery.dtype,
        measured_dtype=model.dtype,
        measured_dtype_reason=model.dtype_reason,
        device=model.device,
        calibration=[calibration_record(part) for part in measured.calibration.parts],
        objective=evaluator.objective.name,
        search=search_record(
            result,
            job.max_increase,
            None if job.search_with_recovery else job.racing,
            evaluator.rounding,
        ),
        dense=measured.dense,
        pruned=estimate(result.score, evaluator.objective),
        blocks=measured.blocks,
        path=measured.path,
        draws=measured.draws,
        held_out=measured.held_out,
        target=measured.target,
        recovery=measured.recovered.record if measured.recovered else None,
        size=size_record(model, written.surgery),
        parity=written.parity,
        versions=versions(),
        files=list(written.surgery.files),
    )
