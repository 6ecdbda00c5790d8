"""The main job, step by step: check, search, judge, cut, prove, measure, write.

The order puts what is cheap and can fail before what is dear: arguments, files and text are
checked before weights are loaded; the output appears as soon as parity holds, and what is measured
of it afterwards is added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from functools import wraps
from inspect import signature
from typing import ParamSpec

from depthprune.claims import Claim, claimed
from depthprune.manifest import Manifest, versions
from depthprune.models.loading import Model
from depthprune.pruning.held_out import estimate
from depthprune.pruning.measure import Measured, measure_task
from depthprune.pruning.options import PruneJob, prune_job
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
from depthprune.pruning.recovering.training_runs import forget
from depthprune.pruning.rehearse import foretell
from depthprune.pruning.session import open_memo
from depthprune.pruning.workers import workers_for
from depthprune.pruning.write import Writing, WrittenCheckpoint

Asked = ParamSpec("Asked")


def _done(job_of: Callable[Asked, PruneJob]) -> Callable[Asked, Manifest]:
    """A function with the arguments of one that makes a job, which also does it."""

    @wraps(job_of)
    def prune(*arguments: Asked.args, **settings: Asked.kwargs) -> Manifest:
        return run(job_of(*arguments, **settings))

    arguments_section = (job_of.__doc__ or "").partition("    Args:")[2].partition("    Raises:")[0]
    prune.__doc__ = f"""Find the blocks that can go, remove them, prove it and write a checkpoint.

    The whole job: it does what the verb does and prints nothing; what a user may want to know is
    logged under `depthprune`.

    Args:{arguments_section}    Returns:
        The manifest that was written beside the checkpoint.

    Raises:
        DepthpruneError: If any step up to the proof fails; then `out` is as it was before.
    """
    prune.__name__ = prune.__qualname__ = "prune"
    prune.__module__ = __name__
    vars(prune)["__signature__"] = signature(job_of).replace(return_annotation="Manifest")
    return prune


prune = _done(prune_job)


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
        questions=task.questions,
        link=job.link,
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
        model=source_model(model, result.removed),
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
        draft=measured.drafting,
        recovery=measured.recovered.record if measured.recovered else None,
        size=size_record(model, written.surgery),
        parity=written.parity,
        versions=versions(),
        files=list(written.surgery.files),
    )
