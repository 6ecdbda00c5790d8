"""`depthprune study`: run a plan's grid into a folder, and write its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.cli.session import memo_at
from depthprune.errors import EvaluationError, OutputError
from depthprune.outputs import PAGE_NAME

if TYPE_CHECKING:
    from depthprune.study.grid import Grid

PLAN_NAME = "plan.yaml"


def study(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="The grid; see docs/study.md.")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="DIR", help="Folder; the same plan goes on there."),
    ],
    memo: options.MemoPlace = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run every cell of a plan, each written as it ends; a stopped study goes on where it was."""
    from depthprune.study.grid import read_grid

    grid = read_grid(plan)
    if dry_run:
        _tell(grid, json)
        return
    _take_folder(out)

    from depthprune.study.runner import TABLE_NAME, Study

    with memo_at(memo) as store:
        outcome = Study(grid, out, store, TerminalProgress()).run()
    (out / PLAN_NAME).write_bytes(plan.read_bytes())
    page = write_page(out)
    if json:
        show_json(
            {
                "schema": 1,
                "cells": len(grid.cells),
                "done": outcome.done,
                "failed": outcome.failed,
                "new": outcome.new,
                "table": str(out / TABLE_NAME),
                "report": None if page is None else str(page),
            }
        )
    else:
        show(Text(_words(out, page)))
    if outcome.failed:
        raise EvaluationError(
            f"{outcome.failed} of {len(grid.cells)} cells failed; the table says why; remove their "
            "lines to have them run again"
        )


def write_page(folder: Path) -> Path | None:
    """Write a study's page, figures and tables; None where no cell has run."""
    import yaml

    from depthprune.report.study_files import write_study
    from depthprune.study.runner import TABLE_NAME
    from depthprune.study.table import read

    table = read(folder / TABLE_NAME)
    if not table.done:
        return None
    plan = folder / PLAN_NAME
    text = plan.read_text(encoding="utf-8") if plan.is_file() else ""
    found = yaml.safe_load(text)
    title = str(found.get("name", "")) if isinstance(found, dict) else ""
    write_study(table, folder, plan=text, title=title or folder.name)
    return folder / PAGE_NAME


def _words(out: Path, page: Path | None) -> str:
    from depthprune.study.findings import findings
    from depthprune.study.runner import TABLE_NAME
    from depthprune.study.table import read

    lines = [finding.sentence for finding in findings(read(out / TABLE_NAME).done)]
    if page is not None:
        lines.append(f"report  {page}")
    return "\n".join(lines)


def _take_folder(out: Path) -> None:
    """Refuse a folder that holds something else; make one that is not there."""
    from depthprune.study.runner import TABLE_NAME

    if out.exists() and not out.is_dir():
        raise OutputError(f"-o {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / TABLE_NAME).exists():
        raise OutputError(f"-o {out}: holds something that is no study; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"-o {out}: cannot be made ({error.strerror})") from error


def _tell(grid: Grid, json: bool) -> None:
    from depthprune.study.forecast import forecast
    from depthprune.study.grid import levels

    found = forecast(grid, TerminalProgress())
    axes = levels(grid.cells)
    if json:
        show_json(
            {
                "schema": 1,
                "cells": len(grid.cells),
                "unfit": grid.unfit,
                "levels": axes,
                "block_tokens": found.block_tokens,
                "head_tokens": found.head_tokens,
                "seconds": found.seconds,
            }
        )
        return
    from depthprune.report.numbers import duration, format_count

    words = ", ".join(f"{count} {axis}" for axis, count in axes.items() if count > 1)
    left = f"; {grid.unfit} left out, whose objective cannot judge the data" if grid.unfit else ""
    show(f"{len(grid.cells)} cells ({words}){left}")
    show(
        f"searching: {format_count(found.block_tokens)} block-tokens, about "
        f"{duration(found.seconds)}, every set on every window; racing takes less. Judging what is "
        "chosen comes on top"
    )
