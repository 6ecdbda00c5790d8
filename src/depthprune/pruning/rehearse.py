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


_LONG = 30.0


def foretell(job: PruneJob, task: PruneTask) -> None:
    """Say before a search how long it takes, if that is long and simply found out."""
    if not task.search.grows or (task.budget is not None and task.budget.seconds is not None):
        return
    plan = rehearse(job, task)
    if plan.seconds < _LONG:
        return
    words = [f"the search takes about {duration(plan.seconds)}"]
    if job.racing is not None and not job.search_with_recovery:
        words = [f"the search takes at most about {duration(plan.seconds)}, as a rule much less"]
    if busy := busy_words():
        words.append(busy)
    words.append("losses are kept as they are found, so a run that is stopped goes on from there")
    note(f"{'; '.join(words)}")


def rehearse(job: PruneJob, task: PruneTask) -> CostEstimate:
    """What the search of a job would cost on this machine."""
    from depthprune.evaluator.rehearsal import (
        Rehearsal,
        measure_speed,
        plan_of,
    )
    from depthprune.recovery import RecoveringRehearsal

    windows = task.calibration.windows
    kind = RecoveringRehearsal if job.search_with_recovery else Rehearsal
    rehearsal = kind.of(task.model, task.calibration, task.objective)
    task.search_on(rehearsal, job.seed)
    with job.progress.step("measuring the speed of this machine", None, ""):
        longest = max(windows, key=lambda window: len(window.tokens))
        speed = measure_speed(task.model, longest)
    return plan_of(rehearsal, task.model, windows, speed)
