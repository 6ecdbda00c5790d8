"""What `study` does: run a plan's grid into a folder, judge its finalists, and write its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from depthprune.claims import held
from depthprune.engine import Engine, as_engine, join
from depthprune.errors import EvaluationError, OutputError
from depthprune.outputs import PAGE_NAME, as_target, check_name, check_space, whole_file
from depthprune.progress import SILENT, Progress, warn
from depthprune.pruning.session import memo_at
from depthprune.pruning.standing import if_interrupted
from depthprune.study.estimable import check_estimable
from depthprune.study.finalist_runner import Finals
from depthprune.study.grid import check_files, read_grid
from depthprune.study.jsonl import Outcome
from depthprune.study.report.files import WrittenReport
from depthprune.study.report.publish import PLAN_NAME, write_page
from depthprune.study.runner import Study
from depthprune.study.table import TABLE_NAME, read, resume
from depthprune.study.waiting import count

_BESIDE, _CELL = 4 << 20, 2_000
"""Bytes that pages and figures take at least, and a cell's row."""


@dataclass(frozen=True)
class StudyResult:
    """How a study ended.

    Attributes:
        folder: Where it lies.
        cells: Of the plan.
        outcome: How many ran and failed.
        finalists: How many of their tasks ran and failed.
        written: Its page and what it says; None where no cell has run.
    """

    folder: Path
    cells: int
    outcome: Outcome
    finalists: Outcome
    written: WrittenReport | None

    @property
    def table(self) -> Path:
        """The results table."""
        return self.folder / TABLE_NAME

    @property
    def report(self) -> Path | None:
        """The page."""
        return None if self.written is None else self.folder / PAGE_NAME

    def document(self) -> dict[str, Any]:
        """As `study --json` prints it."""
        return {
            "schema": 1,
            "cells": self.cells,
            "done": self.outcome.done,
            "failed": self.outcome.failed,
            "new": self.outcome.new,
            "finalists": asdict(self.finalists),
            "table": str(self.table),
            "report": None if self.report is None else str(self.report),
        }

    def require_all(self) -> None:
        """Refuse a study of which something failed; the table says why.

        Raises:
            EvaluationError: Saying of how many.
        """
        cells, finalists = self.outcome.failed, self.finalists.failed
        failed = [f"{cells} of {self.cells} cells"] * bool(cells)
        failed += [f"{finalists} of the finalists' tasks"] * bool(finalists)
        if failed:
            raise EvaluationError(
                f"{' and '.join(failed)} failed; the table says why; remove their lines to have "
                "them run again"
            )


def run_study(
    plan: str | Path,
    out: str | Path,
    *,
    memo: str | Path | None = None,
    engine: str | Engine | None = None,
    progress: Progress = SILENT,
) -> StudyResult:
    """Run every cell of a plan that its folder does not have yet, and write the page.

    Args:
        plan: The YAML file; see `docs/study.md`.
        out: The folder; the same plan goes on there.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        engine: `ray` or `ray://HOST:PORT` to have cells run by workers of a cluster.
        progress: Where long work shows itself.

    Returns:
        What ran and what failed; a cell that failed does not stop the others.

    Raises:
        DepthpruneError: If the plan is wrong, or the folder holds something else.
    """
    plan, folder = Path(plan), Path(out)
    spread = as_engine(engine)
    grid = read_grid(plan)
    check_files(grid)
    for line in check_estimable(grid):
        warn(f"cannot be estimated: {line}")
    if_interrupted(partial(_standing, folder))
    Finals(grid, folder).check()
    check_space(folder, _BESIDE + _CELL * len(grid.cells))
    with _folder(folder):
        joined = nullcontext() if spread is None else join(spread)
        with memo_at(memo) as store, joined as cluster:
            resume(folder / TABLE_NAME, grid.fingerprint)
            # What the plan states is on record before the first result is.
            with whole_file(folder / PLAN_NAME) as copy:
                copy.write_bytes(plan.read_bytes())
            outcome = Study(grid, folder, store, progress, cluster=cluster).run()
            finals = Finals(grid, folder, progress, cluster=cluster)
            judged = finals.run(read(folder / TABLE_NAME).rows)
        written = write_page(folder)
    return StudyResult(folder, len(grid.cells), outcome, judged, written)


def _standing(out: Path) -> str | None:
    """What an interruption leaves of a study."""
    table = out / TABLE_NAME
    if not table.is_file():
        return None
    content = table.read_bytes()
    cells = max(content.count(b"\n") - 1 - content.count(b'\n{"kind":"dense"'), 0)
    behind = count(out)
    wait = f", and {behind} that wait to be judged" if behind else ""
    return f"the {cells} cells in {table} stand{wait}; the same command goes on from there"


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """The study's folder, this process's alone; one that was made and stays empty goes again."""
    check_name(as_target(out))
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
    if out.exists() and not out.is_dir():
        raise OutputError(f"-o {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / TABLE_NAME).exists():
        raise OutputError(f"-o {out}: holds something that is no study; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"-o {out}: cannot be made ({error.strerror})") from error
