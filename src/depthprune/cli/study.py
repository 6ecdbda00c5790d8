"""`depthprune study`: run a plan's grid into a folder, and write its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.text import Text

from depthprune.claims import held
from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.errors import EvaluationError, OutputError
from depthprune.outputs import PAGE_NAME, whole_file
from depthprune.pruning.session import memo_at
from depthprune.pruning.standing import if_interrupted

if TYPE_CHECKING:
    from depthprune.study.grid import Grid
    from depthprune.study.report.files import WrittenReport

PLAN_NAME = "plan.yaml"


def study(
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
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run every cell of a plan, each written as it ends; a stopped study goes on where it was."""
    from depthprune.study.grid import check_files, read_grid

    options.require_out(out, dry_run=dry_run)
    grid = read_grid(plan)
    check_files(grid)
    if dry_run or out is None:
        _tell(grid, json)
        return
    if_interrupted(partial(_standing, out))

    from depthprune.study.finalist_runner import Finals
    from depthprune.study.runner import Study
    from depthprune.study.table import TABLE_NAME, read

    progress = TerminalProgress()
    finals = Finals(grid, out, progress)
    finals.check()
    with _folder(out):
        with memo_at(memo) as store:
            outcome = Study(grid, out, store, progress).run()
        judged = finals.run(read(out / TABLE_NAME).rows)
        with whole_file(out / PLAN_NAME) as copy:
            copy.write_bytes(plan.read_bytes())
        written = write_page(out)
    page = None if written is None else out / PAGE_NAME
    if json:
        show_json(
            {
                "schema": 1,
                "cells": len(grid.cells),
                "done": outcome.done,
                "failed": outcome.failed,
                "new": outcome.new,
                "finalists": asdict(judged),
                "table": str(out / TABLE_NAME),
                "report": None if page is None else str(page),
            }
        )
    else:
        lines = [each.sentence for each in written.findings] if written else ["No cell has run."]
        show(Text("\n".join([*lines, *[f"report  {page}"] * (page is not None)])))
    _refuse_failed(outcome.failed, len(grid.cells), judged.failed)


def _refuse_failed(cells: int, total: int, finalists: int) -> None:
    failed = [f"{cells} of {total} cells"] * bool(cells)
    failed += [f"{finalists} of the finalists' tasks"] * bool(finalists)
    if failed:
        raise EvaluationError(
            f"{' and '.join(failed)} failed; the table says why; remove their lines to have them "
            "run again"
        )


def write_page(folder: Path) -> WrittenReport | None:
    """Write a study's page, figures and tables; None where no cell has run."""
    from depthprune.study.finalist_runner import FINALS_NAME
    from depthprune.study.finalists import FINALS
    from depthprune.study.report.files import write_study
    from depthprune.study.table import TABLE_NAME, read
    from depthprune.untrusted import LARGEST_YAML, parse_yaml, read_text

    table = read(folder / TABLE_NAME)
    if not table.done:
        return None
    plan = folder / PLAN_NAME
    text = read_text(plan, error=OutputError, most=LARGEST_YAML) if plan.exists() else ""
    found = parse_yaml(text, str(plan), error=OutputError)
    title = str(found.get("name") or "") if isinstance(found, dict) else ""
    file = folder / FINALS_NAME
    finals = FINALS.read(file)[1] if file.is_file() else ()
    return write_study(table, folder, plan=text, title=title or folder.name, finals=finals)


def _standing(out: Path) -> str | None:
    """What an interruption leaves of a study."""
    from depthprune.study.table import TABLE_NAME

    table = out / TABLE_NAME
    if not table.is_file():
        return None
    content = table.read_bytes()
    cells = max(content.count(b"\n") - 1 - content.count(b'\n{"kind":"dense"'), 0)
    return f"the {cells} cells in {table} stand; the same command goes on from there"


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """The study's folder, this process's alone; one that was made and stays empty goes again."""
    made = not out.exists()
    _take_folder(out)
    try:
        with held(out):
            yield
    finally:
        if made:
            with suppress(OSError):
                out.rmdir()


def _take_folder(out: Path) -> None:
    """Refuse a folder that holds something else; make one that is not there."""
    from depthprune.study.table import TABLE_NAME

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
    if grid.tasks or grid.problems:
        show("tasks and problems of finalists come on top")
