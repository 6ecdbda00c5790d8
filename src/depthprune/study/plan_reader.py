"""Reads what a plan names (specs, objectives, searches) and says all that is wrong at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from depthprune.calibration import SOURCES, CalibrationSpec, beside, parse_calibration
from depthprune.calibration.problems import as_problems
from depthprune.errors import DepthpruneError, UsageError
from depthprune.objectives import parse_objective
from depthprune.searches import make_search, parse_budget
from depthprune.study.plan import Plan, listed
from depthprune.untrusted import shown

T = TypeVar("T")
Specs: TypeAlias = tuple[CalibrationSpec, ...]

AXES = ("model", "k", "calibration", "objective", "search", "draw", "seed")
"""Of a grid; each cell has a level of every one."""

_MOST_CONFIGURATIONS = 2_000
"""Of one calibration. Each is read as a spec."""


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


class PlanReader:
    """Reads what a plan names, and gathers all that is wrong.

    Args:
        plan: The plan.
        path: Its file, against whose folder paths are resolved.

    Attributes:
        problems: What is wrong, in words.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        self.problems: list[str] = []
        self._plan = plan
        self._folder = path.parent

    def configurations(self, name: str, entry: Any) -> list[Calibrated]:
        """A calibration with every value of its axes; none where it is wrong."""
        found = self._gathered(
            f"calibrations.{name}", lambda: _configurations(name, entry, self._folder)
        )
        return found or []

    def specs(self, where: str, spec: str) -> Specs:
        """What is judged on; nothing where it is wrong."""
        return self._gathered(where, lambda: _specs(spec, self._folder)) or ()

    def problem(self, where: str, spec: str) -> CalibrationSpec | None:
        """Questions with answers, the answers scored; None where they are wrong."""
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
    check_count("its axes", axes.values(), _MOST_CONFIGURATIONS)
    answer = []
    for values in itertools.product(*axes.values()):
        keys = ",".join(f"{key}={value}" for key, value in zip(axes, values, strict=True))
        varied = [
            f"{key}={value}" for key, value in zip(axes, values, strict=True) if len(axes[key]) > 1
        ]
        spec = f"{entry['spec']},{keys}" if keys else str(entry["spec"])
        answer.append(Calibrated("/".join([name, *varied]), name, _specs(spec, folder)))
    return answer


def check_count(what: str, axes: Iterable[Sequence[Any]], most: int) -> None:
    """Refuse what would take longer to write out than anyone can wait."""
    count = math.prod(map(len, axes))
    if count > most:
        raise UsageError(
            f"{what} have {shown(count)} combinations, expected at most {most:,}; name fewer "
            "levels, or split the plan"
        )


def _check_excluded(entry: Mapping[str, Any]) -> None:
    unknown = [key for key in entry if key not in AXES]
    if unknown:
        raise UsageError(f"expected {', '.join(AXES)}; got {unknown[0]}")
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
