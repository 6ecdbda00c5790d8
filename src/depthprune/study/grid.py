"""The grid of a study: its cells, written out from the plan.

A cell is one search on one draw of one calibration, under one objective, for one model and one
number of blocks. Every combination of the plan's levels is a cell, except those that `exclude`
names and those whose objective cannot judge what the calibration draws. What its grid can answer
is another question (`estimable`).

The files that a plan names, looked for before anything is run.

A study loads a model and searches for minutes before it reads the text that it judges on, so a
misspelled path is told at once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from depthprune.calibration import (
    SOURCES,
    CalibrationSpec,
    beside,
    files_of,
    parse_calibration,
    seen_from,
)
from depthprune.calibration.problems import as_problems
from depthprune.calibration.reading.files import is_there
from depthprune.calibration.windows import Split
from depthprune.errors import DepthpruneError, UsageError, first_line
from depthprune.evaluator import RemovedSet
from depthprune.objectives import parse_objective
from depthprune.removed_sets import parse_blocks
from depthprune.searches import (
    Budget,
    make_search,
    parse_budget,
)
from depthprune.study.plan import (
    FINAL_KEYS,
    MOST_CELLS,
    STATED_KEYS,
    Plan,
    is_task_file,
    listed,
    read_plan,
)
from depthprune.untrusted import shown

T = TypeVar("T")
Specs: TypeAlias = tuple[CalibrationSpec, ...]

_MOST_CONFIGURATIONS = 2_000
"""Of one calibration. Each is read as a spec."""

_AXES = ("model", "k", "calibration", "objective", "search", "draw", "seed")


@dataclass(frozen=True)
class Calibrated:
    """One configuration of a calibration.

    Attributes:
        name: The plan's, with the values of its axes.
        family: The plan's, without them.
        specs: What is drawn, mixed by weight.
    """

    name: str
    family: str
    specs: Specs

    @property
    def judges_items(self) -> bool:
        """Whether all that it draws are items."""
        return all(SOURCES.get(spec.source).kind == "choices" for spec in self.specs)


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
        seen = {(s.source, s.target) for c in self.calibrations.values() for s in c.specs}
        return "held-out" if any((s.source, s.target) in seen for s in judged) else "whole"

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
    return _written_out(read_plan(path), path)


def _written_out(plan: Plan, path: Path) -> Grid:
    reading = _Reading(plan, path)
    calibrations = {
        each.name: each
        for name, entry in plan.calibrations.items()
        for each in reading.configurations(name, entry)
    }
    texts = {name: reading.specs(f"texts.{name}", spec) for name, spec in plan.texts.items()}
    choices = {name: reading.specs(f"choices.{name}", spec) for name, spec in plan.choices.items()}
    problems = {
        name: reading.problem(f"generate.{name}", entry.spec)
        for name, entry in plan.generate.items()
    }
    reading.check_names()
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


class _Reading:
    """Reads what a plan names, and gathers all that is wrong."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self.problems: list[str] = []
        self._plan = plan
        self._folder = path.parent

    def configurations(self, name: str, entry: Any) -> list[Calibrated]:
        found = self._gathered(
            f"calibrations.{name}", lambda: _configurations(name, entry, self._folder)
        )
        return found or []

    def specs(self, where: str, spec: str) -> Specs:
        return self._gathered(where, lambda: _specs(spec, self._folder)) or ()

    def problem(self, where: str, spec: str) -> CalibrationSpec | None:
        """Questions with answers, the answers scored."""
        return self._gathered(where, lambda: _problem(_specs(spec, self._folder)))

    def check_names(self) -> None:
        """Objectives, searches, the budget, what is excluded and where texts are at home."""
        judged = {**self._plan.texts, **self._plan.choices}
        for objective in self._plan.objectives:
            self._gathered("objectives", partial(parse_objective, objective))
        for search in self._plan.searches:
            self._gathered("searches", partial(make_search, search))
        if self._plan.budget is not None:
            self._gathered("budget", partial(parse_budget, self._plan.budget))
        if len(set(self._plan.tasks)) < len(self._plan.tasks):
            self.problems.append("tasks: expected each once")
        if (self._plan.tasks or self._plan.generate) and not judged:
            self.problems.append(
                "tasks, generate: finalists are chosen by what texts or choices say; name some"
            )
        for place, entry in enumerate(self._plan.exclude):
            self._gathered(f"exclude.{place}", partial(_check_excluded, entry))
        for name, home in self._plan.homes.items():
            if name not in judged or home not in self._plan.calibrations:
                self.problems.append(
                    f"homes.{name}: expected a name of texts or choices, and a calibration's"
                )

    def _gathered(self, where: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except DepthpruneError as error:
            self.problems.append(f"{where}: {error}")
            return None


def _configurations(name: str, entry: Any, folder: Path) -> list[Calibrated]:
    if not isinstance(entry, dict):
        return [Calibrated(name, name, _specs(entry, folder))]
    axes = {key: listed(value) for key, value in entry.items() if key != "spec"}
    if "spec" not in entry or not all(axes.values()):
        raise UsageError("expected spec and axes, each with at least one value")
    _check_cells("its axes", axes.values(), _MOST_CONFIGURATIONS)
    answer = []
    for values in itertools.product(*axes.values()):
        keys = ",".join(f"{key}={value}" for key, value in zip(axes, values, strict=True))
        varied = [
            f"{key}={value}" for key, value in zip(axes, values, strict=True) if len(axes[key]) > 1
        ]
        spec = f"{entry['spec']},{keys}" if keys else str(entry["spec"])
        answer.append(Calibrated("/".join([name, *varied]), name, _specs(spec, folder)))
    return answer


def _check_cells(what: str, axes: Iterable[Sequence[Any]], most: int) -> None:
    """Refuse what would take longer to write out than anyone can wait."""
    count = math.prod(map(len, axes))
    if count > most:
        raise UsageError(
            f"{what} have {shown(count)} combinations, expected at most {most:,}; name fewer "
            "levels, or split the plan"
        )


def _check_excluded(entry: Mapping[str, Any]) -> None:
    unknown = [key for key in entry if key not in _AXES]
    if unknown:
        raise UsageError(f"expected {', '.join(_AXES)}; got {unknown[0]}")
    for levels in entry.values():
        for level in listed(levels):
            if isinstance(level, (list, dict)):
                raise UsageError(f"expected a level, or a list of levels; got {shown(level, 60)}")


def _specs(entry: Any, folder: Path) -> Specs:
    if not entry or not all(isinstance(each, str) for each in listed(entry)):
        raise UsageError(f"expected a spec, or a list of specs; got {shown(entry, 60)}")
    specs = parse_calibration(entry)
    return tuple(beside(spec, folder) for spec in specs)


def _problem(specs: Specs) -> CalibrationSpec:
    if len(specs) > 1:
        raise UsageError(f"expected one source of questions and answers, got {len(specs)}")
    return as_problems(specs[0])


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
    _check_cells("the axes of its grid", axes, MOST_CELLS)
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


def only_line(error: DepthpruneError) -> str:
    """An error as it stands in a table."""
    return first_line(error, 300)


def levels(cells: Sequence[Cell]) -> dict[str, int]:
    """How many levels each axis has among some cells."""
    return {axis: len({getattr(cell, axis) for cell in cells}) for axis in _AXES}


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
