"""What a search would cost, found out before it is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthprune.progress import note
from depthprune.report.numbers import duration
from depthprune.threads import busy_words

if TYPE_CHECKING:
    from depthprune.evaluator.rehearsal import CostEstimate
    from depthprune.pruning.options import PruneJob
    from depthprune.pruning.prepare import PruneTask
    from depthprune.pruning.target.task import TargetTask


_LONG = 30.0


def foretell(job: PruneJob, task: PruneTask) -> None:
    """Say before a search how long it takes, if that is long and simply found out."""
    if task.wanted is None and not task.search.grows:
        return
    if task.budget is not None and task.budget.seconds is not None:
        return
    plan = rehearse(job, task)
    if plan.seconds < _LONG:
        return
    words = [f"the search takes {time_words(plan, job)}"]
    if busy := busy_words():
        words.append(busy)
    if job.memo == "off":
        words.append("with --memo off a run that is stopped begins anew")
    else:
        words[0] += ", less what the memo already holds"
        words.append(
            "losses are kept as they are found, so a run that is stopped goes on from there"
        )
    note("; ".join(words))


def time_words(plan: CostEstimate, job: PruneJob) -> str:
    """How long a search takes: what is to be expected, and where it races, the most."""
    raced = job.racing is not None and not job.search_with_recovery
    each = f", on each of {job.draws} draws" if job.draws > 1 else ""
    if not raced or plan.raced_seconds == plan.seconds:
        return f"about {duration(plan.seconds)}{each}"
    return f"about {duration(plan.raced_seconds)}, at most {duration(plan.seconds)}{each}"


def rehearse(job: PruneJob, task: PruneTask) -> CostEstimate:
    """What the search of a job would cost on this machine."""
    from depthprune.evaluator.rehearsal import (
        Rehearsal,
        measure_speed,
        plan_of,
    )
    from depthprune.recovery import RecoveringRehearsal

    if task.wanted is not None:
        return _rehearse_choice(job, task, task.wanted)
    windows = task.calibration.windows
    kind = RecoveringRehearsal if job.search_with_recovery else Rehearsal
    rehearsal = kind.of(task.model, task.calibration, task.objective)
    task.search_on(rehearsal, job.seed)
    with job.progress.step("measuring the speed of this machine", None, ""):
        speed = measure_speed(task.model, windows)
    return plan_of(rehearsal, task.model, windows, speed)


def _rehearse_choice(job: PruneJob, task: PruneTask, wanted: TargetTask) -> CostEstimate:
    """What choosing a calibration would cost: the same choice, on evaluators that only count."""
    from depthprune.evaluator.rehearsal import CostEstimate, measure_speed, plan_of
    from depthprune.pruning.target.auto import foretell_choice
    from depthprune.pruning.target.trials import Rules

    rules = Rules(task.search, task.k, job.seed, task.protect, task.refusal)
    made = foretell_choice(wanted, rules, task.budget, task.model)
    windows = wanted.target.choose.windows
    with job.progress.step("measuring the speed of this machine", None, ""):
        speed = measure_speed(task.model, windows)
    plans = [plan_of(each, task.model, part.windows, speed) for each, part in made]
    return CostEstimate(
        evaluations=sum(plan.evaluations for plan in plans),
        block_tokens=sum(plan.block_tokens for plan in plans),
        head_tokens=sum(plan.head_tokens for plan in plans),
        plain_block_tokens=sum(plan.plain_block_tokens for plan in plans),
        state_bytes=max(plan.state_bytes for plan in plans),
        weight_bytes=sum(plan.weight_bytes for plan in plans),
        seconds=sum(plan.seconds for plan in plans),
        windows=min(plan.windows for plan in plans),
    )
