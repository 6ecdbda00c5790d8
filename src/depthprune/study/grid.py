"""The grid of a study: every cell that is run, written out from the plan.

A cell is one search on one draw of one calibration, under one objective, for one model and one
number of blocks. Every combination of the plan's levels is a cell, except those that `exclude`
names and those whose objective cannot judge what the calibration draws. What its grid can answer
is another question (`estimable`).

A study loads a model and searches for minutes before it reads the text that it judges on, so the
files that a plan names are looked for before anything is run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthprune.calibration import SOURCES, CalibrationSpec, files_of, seen_from
from depthprune.calibration.reading.files import is_there
from depthprune.calibration.windows import Split
from depthprune.errors import UsageError
from depthprune.evaluator import RemovedSet
from depthprune.objectives import parse_objective
from depthprune.removed_sets import parse_blocks
from depthprune.searches import Budget, parse_budget
from depthprune.study.plan import (
    FINAL_KEYS,
    MOST_CELLS,
    STATED_KEYS,
    Plan,
    is_task_file,
    listed,
    read_plan,
)
from depthprune.study.plan_reader import AXES, Calibrated, PlanReader, Specs, check_count


@dataclass(frozen=True)
class Cell:
    """One run of a search."""

    model: str
    k: int
    calibration: str
    objective: str
    search: str
    draw: int
    seed: int


@dataclass(frozen=True)
class Grid:
    """A plan read, checked and written out.

    Attributes:
        plan: As read.
        calibrations: By name.
        cells: In the order in which they are run: what shares a draw stands together, the largest
            k first, since the sets of a smaller one lie on its way.
        unfit: How many cells were left out because their objective cannot judge what is drawn.
        texts: Specs whose perplexity is measured, by name.
        choices: Specs of items whose accuracy is measured, by name.
        folder: Of the plan's file.
        tasks: Of the harness, files by their paths.
        problems: What finalists answer in their own words, by name.
    """

    plan: Plan
    calibrations: Mapping[str, Calibrated]
    cells: tuple[Cell, ...]
    unfit: int
    texts: Mapping[str, Specs]
    choices: Mapping[str, Specs]
    folder: Path
    tasks: tuple[str, ...] = ()
    problems: Mapping[str, CalibrationSpec] = field(default_factory=dict)

    def place(self, model: str) -> str:
        """Where a model is found: a folder or file beside the plan, else what its name says."""
        beside = self.folder / model
        return str(beside) if beside.exists() else model

    @property
    def protect(self) -> RemovedSet:
        """The blocks that stay."""
        return parse_blocks(self.plan.protect, "protect") if self.plan.protect else ()

    @property
    def budget(self) -> Budget | None:
        """What each search may spend."""
        return parse_budget(self.plan.budget) if self.plan.budget else None

    def split_of(self, judged: Specs) -> Split:
        """What judges draw from: of a source that a calibration reads, the tenth that none sees."""
        seen = {_read_by(spec) for c in self.calibrations.values() for spec in c.specs}
        return "held-out" if any(_read_by(spec) in seen for spec in judged) else "whole"

    @property
    def fingerprint(self) -> str:
        """Of all that decides a result, in hexadecimal; its name does not, nor where it lies."""
        judged = {**self.texts, **self.choices}

        def lines(specs: Specs) -> list[str]:
            return [seen_from(spec, self.folder).line() for spec in specs]

        facts = {
            **self.plan.model_dump(
                exclude={
                    "name",
                    "device",
                    "calibrations",
                    "texts",
                    "choices",
                    "least_items",
                    *FINAL_KEYS,
                    *STATED_KEYS,
                }
            ),
            # What is stated cannot be stated otherwise once the results are known.
            **self.plan.model_dump(include=set(STATED_KEYS), exclude_none=True),
            "calibrations": {name: lines(c.specs) for name, c in self.calibrations.items()},
            "texts": {name: lines(specs) for name, specs in self.texts.items()},
            "choices": {name: lines(specs) for name, specs in self.choices.items()},
            "splits": {name: self.split_of(specs) for name, specs in judged.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def read_grid(path: Path) -> Grid:
    """Read a plan and write its grid out; paths in it are resolved against its file.

    Raises:
        UsageError: If the file is not a plan, naming everything that is wrong with it.
    """
    plan = read_plan(path)
    reading = PlanReader(plan, path)
    calibrations = reading.named(
        each
        for name, entry in plan.calibrations.items()
        for each in reading.configurations(name, entry)
    )
    texts = {name: reading.specs(f"texts.{name}", spec) for name, spec in plan.texts.items()}
    choices = {name: reading.items(f"choices.{name}", spec) for name, spec in plan.choices.items()}
    problems = {
        name: reading.problem(f"generate.{name}", entry.spec)
        for name, entry in plan.generate.items()
    }
    reading.check_names(calibrations)
    if reading.problems:
        raise UsageError(f"{path}: {'; '.join(reading.problems)}")
    try:
        cells, unfit = _cells(plan, calibrations)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if not cells:
        raise UsageError(f"{path}: no cell is left; exclude less, or name objectives that fit")
    tasks = tuple(str(path.parent / t) if is_task_file(t) else t for t in plan.tasks)
    found = {name: spec for name, spec in problems.items() if spec is not None}
    return Grid(plan, calibrations, cells, unfit, texts, choices, path.parent, tasks, found)


def _cells(plan: Plan, calibrations: Mapping[str, Calibrated]) -> tuple[tuple[Cell, ...], int]:
    cells, unfit = [], 0
    axes: tuple[Sequence[Any], ...] = (
        plan.models,
        tuple(calibrations.values()),
        plan.draws,
        plan.objectives,
        plan.searches,
        sorted(plan.k, reverse=True),
        plan.seeds,
    )
    check_count("the axes of its grid", axes, MOST_CELLS)
    for model, calibration, draw, objective, search, k, seed in itertools.product(*axes):
        cell = Cell(model, k, calibration.name, objective, search, draw, seed)
        if any(_matches(cell, calibration.family, entry) for entry in plan.exclude):
            continue
        if not _fits(objective, calibration):
            unfit += 1
            continue
        cells.append(cell)
    return tuple(cells), unfit


def _matches(cell: Cell, family: str, entry: Mapping[str, Any]) -> bool:
    for axis, levels in entry.items():
        values = {getattr(cell, axis)} | ({family} if axis == "calibration" else set())
        if values.isdisjoint(listed(levels)):
            return False
    return True


def _fits(objective: str, calibration: Calibrated) -> bool:
    """Whether an objective can judge what is drawn; items are also text, text is never items."""
    components = parse_objective(objective).components
    needs_items = [component.objective.items_only for component in components]
    kinds = {SOURCES.get(spec.source).kind == "choices" for spec in calibration.specs}
    if any(needs_items) and True not in kinds:
        return False
    return not (all(needs_items) and False in kinds)


def _read_by(spec: CalibrationSpec) -> tuple[str, str | None]:
    """What a spec reads: a file is the same by whatever name, and as whatever it is read."""
    if spec.target and SOURCES.get(spec.source).reads_file:
        return "file", os.path.realpath(os.path.expanduser(spec.target))
    return spec.source, spec.target


def levels(cells: Sequence[Cell]) -> dict[str, int]:
    """How many levels each axis has among some cells."""
    return {axis: len({getattr(cell, axis) for cell in cells}) for axis in AXES}


def check_files(grid: Grid) -> None:
    """Refuse a plan that names files, or a device, which are not there.

    Args:
        grid: Of the plan.

    Raises:
        UsageError: Naming all of them.
    """
    missing = [
        f"{where}: no such file {path}" for where, path in _files(grid) if not is_there(path)
    ]
    if missing:
        raise UsageError(
            f"{'; '.join(dict.fromkeys(missing))}; paths are resolved against the plan's file, "
            "mend them"
        )
    from depthprune.models.devices import choose_device

    try:
        choose_device(grid.plan.device)
    except UsageError as error:
        raise UsageError(f"device: {error}") from error


def _files(grid: Grid) -> Iterator[tuple[str, str]]:
    groups: list[tuple[str, Specs]] = [
        *((f"calibrations.{c.family}", c.specs) for c in grid.calibrations.values()),
        *((f"texts.{name}", specs) for name, specs in grid.texts.items()),
        *((f"choices.{name}", specs) for name, specs in grid.choices.items()),
        *((f"generate.{name}", (spec,)) for name, spec in grid.problems.items()),
    ]
    for where, specs in groups:
        for spec in specs:
            yield from ((where, name) for name in files_of(spec))
    yield from (("tasks", task) for task in grid.tasks if is_task_file(task))
