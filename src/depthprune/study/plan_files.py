"""The files that a plan names, looked for before anything is run.

A study loads a model and searches for minutes before it reads the text that it judges on, so a
misspelled path is told at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from depthprune.calibration import files_of
from depthprune.calibration.files import is_there
from depthprune.errors import UsageError
from depthprune.study.design import is_task_file
from depthprune.study.grid import Grid, Specs


def check_files(grid: Grid) -> None:
    """Refuse a plan that names files which are not there.

    Args:
        grid: Of the plan.

    Raises:
        UsageError: Naming all of them.
    """
    missing = [
        f"{where}: no such file {path}"
        for where, path in itertools.chain(_sources(grid), _tasks(grid))
        if not is_there(path)
    ]
    if missing:
        raise UsageError(
            f"{'; '.join(dict.fromkeys(missing))}; paths are resolved against the plan's file, "
            "mend them"
        )


def _sources(grid: Grid) -> Iterator[tuple[str, str]]:
    groups: list[tuple[str, Specs]] = [
        *((f"calibrations.{c.family}", c.specs) for c in grid.calibrations.values()),
        *((f"texts.{name}", specs) for name, specs in grid.texts.items()),
        *((f"choices.{name}", specs) for name, specs in grid.choices.items()),
        *((f"generate.{name}", (spec,)) for name, spec in grid.problems.items()),
    ]
    for where, specs in groups:
        for spec in specs:
            yield from ((where, name) for name in files_of(spec))


def _tasks(grid: Grid) -> Iterator[tuple[str, str]]:
    yield from (("tasks", task) for task in grid.tasks if is_task_file(task))
