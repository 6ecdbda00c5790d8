"""`--dry-run`: what a search would cost, told before it is paid for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from depthprune.cli.console import note, show, show_json
from depthprune.report.numbers import duration, format_bytes, format_count
from depthprune.threads import busy_words

if TYPE_CHECKING:
    from depthprune.cli.prune_job import PruneJob
    from depthprune.cli.prune_task import Task
    from depthprune.evaluator.plan import Plan

_LONG = 30.0


def tell(job: PruneJob, *, json: bool) -> None:
    """Rehearse the search of a job and print what it would cost.

    Raises:
        DepthpruneError: If the job cannot be done.
    """
    task = job.prepare()
    plan = _plan(job, task)
    if json:
        show_json({"schema": 1, "search": job.search, "k": task.k, **asdict(plan)})
        return
    show(_table(plan, job, task.calibration.tokens))


def foretell(job: PruneJob, task: Task) -> None:
    """Say before a search how long it takes, if that is long and simply found out."""
    if not task.search.grows or (task.budget is not None and task.budget.seconds is not None):
        return
    plan = _plan(job, task)
    if plan.seconds < _LONG:
        return
    words = [f"the search takes about {duration(plan.seconds)}"]
    if job.racing is not None and not job.search_with_recovery:
        words = [f"the search takes at most about {duration(plan.seconds)}, as a rule much less"]
    if busy := busy_words():
        words.append(busy)
    words.append("losses are kept as they are found, so a run that is stopped goes on from there")
    note(f"note: {'; '.join(words)}")


def _plan(job: PruneJob, task: Task) -> Plan:
    from depthprune.evaluator.plan import Rehearsal, measure_speed, plan_of
    from depthprune.recovery import RecoveringRehearsal

    windows = task.calibration.windows
    kind = RecoveringRehearsal if job.search_with_recovery else Rehearsal
    rehearsal = kind.of(task.model, task.calibration, task.objective)
    task.search_on(rehearsal, job.seed)
    with job.progress.step("measuring the speed of this machine", None, ""):
        longest = max(windows, key=lambda window: len(window.tokens))
        speed = measure_speed(task.model, longest)
    return plan_of(rehearsal, task.model, windows, speed)


def _table(plan: Plan, job: PruneJob, tokens: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    saved = plan.plain_block_tokens / max(plan.block_tokens, 1)
    time = f"about {duration(plan.seconds)}"
    if job.racing is not None and not job.search_with_recovery:
        time += ", every set on every window; racing (the default) takes less"
    rows = [
        ("sets", f"{plan.evaluations:,.0f} on {tokens:,} tokens"),
        (
            "block-tokens",
            f"{format_count(plan.block_tokens)}; plain forwards would take "
            f"{format_count(plan.plain_block_tokens)}, {saved:.2f} times as many",
        ),
        ("head-tokens", format_count(plan.head_tokens)),
        ("states", f"up to {format_bytes(plan.state_bytes)} at once"),
        ("weights read", format_bytes(plan.weight_bytes) if plan.weight_bytes else "none again"),
        ("time", time),
    ]
    for name, value in rows:
        grid.add_row(name, value)
    return grid
