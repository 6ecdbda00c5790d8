"""`depthprune study`: run a plan's grid into a folder, and write its page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.text import Text

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.cli.option_groups import EngineOptions, ResultOptions, expand_groups


@expand_groups
def study(
    *,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="The grid; see docs/study.md.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Folder; the same plan goes on there; not needed with --dry-run.",
        ),
    ] = None,
    memo: options.MemoPlace = None,
    dry_run: options.DryRun = False,
    engine: EngineOptions,
    threads: options.Threads = None,
    output: ResultOptions,
) -> None:
    """Run every cell of a plan, each written as it ends; a stopped study goes on where it was."""
    options.require_out(out, dry_run=dry_run)
    spread = engine.parsed()
    if dry_run or out is None:
        _show_forecast(plan, output.json)
        return

    from depthprune.study.run import run_study

    result = run_study(plan, out, memo=memo, engine=spread, progress=TerminalProgress())
    if output.json:
        show_json(result.document())
    else:
        written = result.written
        lines = [each.sentence for each in written.findings] if written else ["No cell has run."]
        lines += [f"report  {result.report}"] * (written is not None)
        show(Text("\n".join(lines)))
    result.require_all()


def _show_forecast(plan: Path, json: bool) -> None:
    from depthprune.study.estimable import check_estimable
    from depthprune.study.forecast import forecast
    from depthprune.study.grid import check_files, levels, read_grid

    grid = read_grid(plan)
    check_files(grid)
    open_questions = check_estimable(grid)
    found = forecast(grid, TerminalProgress())
    axes = levels(grid.cells)
    if json:
        show_json(
            {
                "schema": 1,
                "cells": len(grid.cells),
                "unfit": grid.unfit,
                "levels": axes,
                "not_estimable": open_questions,
                **asdict(found.searching),
                "judging_at_most": asdict(found.judging),
            }
        )
        return
    from depthprune.report.numbers import duration, format_count

    words = ", ".join(f"{count} {axis}" for axis, count in axes.items() if count > 1)
    left = f"; {grid.unfit} left out, whose objective cannot judge the data" if grid.unfit else ""
    show(f"{len(grid.cells)} cells ({words}){left}")
    show(
        f"searching: {format_count(found.searching.block_tokens)} block-tokens, about "
        f"{duration(found.searching.seconds)}, every set on every window; racing takes less"
    )
    show(
        f"judging: at most {format_count(found.judging.block_tokens)} block-tokens, about "
        f"{duration(found.judging.seconds)}, were every cell to choose a set of its own"
    )
    for line in open_questions:
        show(f"cannot be estimated: {line}")
    if grid.tasks or grid.problems:
        show("tasks and problems of finalists come on top")
