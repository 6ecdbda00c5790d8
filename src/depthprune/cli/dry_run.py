"""`--dry-run`: what a search would cost, reported before it is paid for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from depthprune.cli.console import show, show_json
from depthprune.pruning.prepare import check, prepare
from depthprune.pruning.rehearse import rehearse, time_words
from depthprune.report.numbers import format_bytes, format_count

if TYPE_CHECKING:
    from depthprune.evaluator.rehearsal import CostEstimate
    from depthprune.pruning.options import PruneJob


def show_cost(job: PruneJob, *, json: bool) -> None:
    """Rehearse the search of a job and print what it would cost.

    Raises:
        DepthpruneError: If the job cannot be done.
    """
    task = prepare(job, check(job), rehearsed=True)
    plan = rehearse(job, task)
    if json:
        show_json({"schema": 1, "search": job.search, "k": task.k, **asdict(plan)})
        return
    show(_table(plan, job, task.calibration.tokens))


def _table(plan: CostEstimate, job: PruneJob, tokens: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    saved = plan.plain_block_tokens / max(plan.block_tokens, 1)
    time = time_words(plan, job)
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
