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
from depthprune.models.dtype_names import check_dtype
from depthprune.objectives import Mixture, parse_objective
from depthprune.removed_sets import parse_blocks
from depthprune.searches import Search, make_search, parse_budget
from depthprune.study.plan import Plan, listed
from depthprune.untrusted import shown

T = TypeVar("T")
Specs: TypeAlias = tuple[CalibrationSpec, ...]

AXES = ("model", "k", "calibration", "objective", "search", "draw", "seed")
"""Of a grid; each cell has a level of every one."""

_LISTED = ("models", "k", "objectives", "searches", "draws", "seeds", "tasks")
"""Keys of a plan whose levels are told apart by themselves alone."""

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

    def items(self, where: str, spec: str) -> Specs:
        """What accuracy is judged on; nothing where it is wrong."""
        found = self.specs(where, spec)
        if not all(SOURCES.get(each.source).kind == "choices" for each in found):
            self.problems.append(f"{where}: expected items, from a choices: source; got {spec}")
        return found

    def problem(self, where: str, spec: str) -> CalibrationSpec | None:
        """Questions with answers, the answers scored; None where they are wrong."""
        return self._gathered(where, lambda: _problem(_specs(spec, self._folder)))

    def named(self, found: Iterable[Calibrated]) -> dict[str, Calibrated]:
        """Configurations by name, each name once."""
        names: dict[str, Calibrated] = {}
        for each in found:
            if each.name in names:
                self.problems.append(
                    f"calibrations.{each.family}: {each.name} is another's name too; name each once"
                )
            names[each.name] = each
        return names

    def check_names(self, calibrations: Mapping[str, Calibrated]) -> None:
        """Objectives, searches, the budget, blocks, what is excluded and where texts are at home.

        Args:
            calibrations: The configurations.
        """
        judged = {**self._plan.texts, **self._plan.choices}
        levels = self._levels(calibrations)
        self.problems += [
            f"{key}: expected each once"
            for key in _LISTED
            if len(set(getattr(self._plan, key))) < len(getattr(self._plan, key))
        ]
        self._check_levels("objectives", self._plan.objectives, parse_objective)
        self._check_levels("searches", self._plan.searches, make_search)
        self._gathered("dtype", partial(check_dtype, self._plan.dtype))
        if self._plan.protect:
            self._gathered("protect", partial(parse_blocks, self._plan.protect, "protect"))
        if self._plan.budget is not None:
            self._gathered("budget", partial(parse_budget, self._plan.budget))
        if (self._plan.tasks or self._plan.generate) and not judged:
            self.problems.append(
                "tasks, generate: finalists are chosen by what texts or choices say; name some"
            )
        for place, entry in enumerate(self._plan.exclude):
            self._gathered(f"exclude.{place}", partial(_check_excluded, entry, levels))
        for name, home in self._plan.homes.items():
            if name not in judged or home not in self._plan.calibrations:
                self.problems.append(
                    f"homes.{name}: expected a name of texts or choices, and a calibration's"
                )

    def _levels(self, calibrations: Mapping[str, Calibrated]) -> dict[str, list[Any]]:
        """Of each axis what `exclude` may name."""
        plan = self._plan
        return {
            "model": plan.models,
            "k": plan.k,
            "calibration": [*plan.calibrations, *calibrations],
            "objective": plan.objectives,
            "search": plan.searches,
            "draw": plan.draws,
            "seed": plan.seeds,
        }

    def _check_levels(
        self, where: str, levels: Iterable[str], parse: Callable[[str], Mixture | Search]
    ) -> None:
        """Refuse levels that are none, and two spellings of one: it would be compared with itself.

        What is written twice in the same words has been told already.
        """
        spelled: dict[str, str] = {}
        for level in dict.fromkeys(levels):
            found = self._gathered(where, partial(parse, level))
            first = spelled.setdefault(found.name, level) if found is not None else level
            if first != level:
                self.problems.append(f"{where}: {first} and {level} are one; name it once")

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
    if not isinstance(entry.get("spec"), str) or not all(axes.values()):
        raise UsageError(
            "expected spec and axes: spec is one text, each axis has at least one value"
        )
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


def _check_excluded(entry: Mapping[str, Any], known: Mapping[str, Sequence[Any]]) -> None:
    unknown = [key for key in entry if key not in AXES]
    if unknown:
        raise UsageError(f"expected {', '.join(AXES)}; got {unknown[0]}")
    for axis, levels in entry.items():
        for level in listed(levels):
            if isinstance(level, (list, dict, bool)):
                raise UsageError(f"expected a level, or a list of levels; got {shown(level, 60)}")
            if level not in known[axis]:
                told = ", ".join(dict.fromkeys(map(str, known[axis])))
                raise UsageError(
                    f"{axis}: the plan has no {shown(level, 60)}; name one of {told:.200}"
                )


def _specs(entry: Any, folder: Path) -> Specs:
    if not entry or not all(isinstance(each, str) for each in listed(entry)):
        raise UsageError(f"expected a spec, or a list of specs; got {shown(entry, 60)}")
    specs = parse_calibration(entry)
    return tuple(beside(spec, folder) for spec in specs)


def _problem(specs: Specs) -> CalibrationSpec:
    if len(specs) > 1:
        raise UsageError(f"expected one source of questions and answers, got {len(specs)}")
    return as_problems(specs[0])
