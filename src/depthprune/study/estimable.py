"""What a plan's grid cannot answer, named before anything runs.

Effects are compared on the largest full cross of draws, searches and k × objective of each model
and kind of calibration (`statistics.core`). That can be told from the plan alone, and so can what
one draw, one source or one search leaves open. A plan that states `test: joint` asks for the
answer, so one whose grid cannot give it is refused; any other runs, and is told.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from depthprune.errors import UsageError
from depthprune.study.grid import Cell, Grid
from depthprune.study.plan import Plan
from depthprune.study.statistics.core import crossed, repeated

T = TypeVar("T", bound=Hashable)
Place: TypeAlias = tuple[str, str]
"""A model and a kind of calibration."""


@dataclass(frozen=True)
class Gap:
    """A question that a grid leaves open.

    Attributes:
        what: What cannot be estimated.
        why: Why, with what would answer it.
        asked: Whether the joint test needs it.
    """

    what: str
    why: str
    asked: bool = True

    def line(self) -> str:
        """As it is told."""
        return f"{self.what} ({self.why})"


def gaps(grid: Grid) -> list[Gap]:
    """All that a grid leaves open, of each model and kind of calibration."""
    places: dict[Place, list[Cell]] = {}
    for cell in grid.cells:
        kind = "choices" if grid.calibrations[cell.calibration].judges_items else "text"
        places.setdefault((cell.model, kind), []).append(cell)
    found = []
    if not grid.texts and not grid.choices:
        found.append(Gap("what any set is worth", "name texts or choices to judge on"))
    of: dict[Gap, list[Place]] = {}
    for place, cells in places.items():
        for gap in _of_part(grid, cells):
            of.setdefault(gap, []).append(place)
    for gap, where in of.items():
        words = _where(where, list(places))
        found.append(replace(gap, what=f"{words}: {gap.what}") if words else gap)
    return found


def _where(places: Sequence[Place], every: Sequence[Place]) -> str:
    """Of which models and kinds something holds; nothing where it holds of all."""
    if len(places) == len(every):
        return ""
    models, kinds = (list(dict.fromkeys(side)) for side in zip(*places, strict=True))
    all_models, all_kinds = ({place[side] for place in every} for side in (0, 1))
    words = [", ".join(models)] * (len(all_models) > len(models))
    words += [f"{' and '.join(kinds)} calibrations"] * (len(all_kinds) > len(kinds))
    return ", ".join(words) or ", ".join(models)


def check_estimable(grid: Grid) -> list[str]:
    """What the grid cannot answer, a line each.

    Args:
        grid: Of the plan.

    Raises:
        UsageError: If the plan states the joint test and its grid cannot answer it, or has fewer
            items than the plan states.
    """
    for name, specs in grid.choices.items():
        counts = [spec.windows for spec in specs]
        if all(isinstance(count, int) for count in counts):
            require_items(grid.plan, name, sum(c for c in counts if isinstance(c, int)))
    found = gaps(grid)
    asked = [gap.line() for gap in found if gap.asked]
    if grid.plan.test == "joint" and asked:
        raise UsageError(
            f"test: joint, and the grid cannot estimate {'; '.join(asked)}; mend the plan, or "
            "leave test out to run it all the same"
        )
    return [gap.line() for gap in found]


def require_items(plan: Plan, name: str, count: int) -> None:
    """Refuse a choices file that gives too few items.

    Raises:
        UsageError: If the plan states more.
    """
    least = plan.least_items
    if least is not None and count < least:
        raise UsageError(
            f"choices.{name}: least_items is {least}, got {count} items; raise windows=, or lower "
            "least_items"
        )


def _of_part(grid: Grid, cells: Sequence[Cell]) -> Iterator[Gap]:
    """Of cells of one model and kind of calibration."""
    units = sorted({(cell.calibration, cell.draw) for cell in cells})
    searches = sorted({cell.search for cell in cells})
    blocks = sorted({(cell.k, cell.objective) for cell in cells})
    names = sorted({calibration for calibration, _ in units})
    strata = np.asarray(_places([calibration for calibration, _ in units], names))
    there = np.zeros((len(units), len(searches), len(blocks)), dtype=np.bool_)
    there[
        _places([(cell.calibration, cell.draw) for cell in cells], units),
        _places([cell.search for cell in cells], searches),
        _places([(cell.k, cell.objective) for cell in cells], blocks),
    ] = True
    units_kept, *others = crossed(there)
    kept = [repeated(strata, units_kept), *others]
    left = {
        "calibration": _left(names, [names[i] for i in strata[kept[0]]]),
        "search": _left(searches, [searches[i] for i in kept[1]]),
        "objective": _left([o for _, o in blocks], [blocks[i][1] for i in kept[2]]),
        "k": _left([str(k) for k, _ in blocks], [str(blocks[i][0]) for i in kept[2]]),
    }
    for factor, levels in left.items():
        if levels:
            yield Gap(
                f"the effect of {factor} {', '.join(levels)}",
                f"not crossed with the others: not every draw has every search, k and objective "
                f"with {'it' if len(levels) == 1 else 'them'}",
            )
    chosen = [names[i] for i in np.unique(strata[kept[0]])]
    draws = int(np.bincount(strata[kept[0]])[np.unique(strata[kept[0]])].min())
    sources = {grid.calibrations[name].family for name in chosen}
    yield from _of_levels(chosen, sources, draws)
    yield from _of_choices([searches[i] for i in kept[1]], {blocks[i][1] for i in kept[2]})


def _places(values: Sequence[T], levels: Sequence[T]) -> list[int]:
    """Where each value stands among the levels; a grid has too many to look through."""
    number = {level: place for place, level in enumerate(levels)}
    return [number[value] for value in values]


def _left(levels: Sequence[str], kept: Sequence[str]) -> list[str]:
    return [level for level in dict.fromkeys(levels) if level not in kept]


def _of_levels(calibrations: Sequence[str], sources: set[str], draws: int) -> Iterator[Gap]:
    if len(calibrations) < 2:
        yield Gap("what the calibration moves", f"one calibration only, {calibrations[0]}")
    elif len(sources) < 2:
        yield Gap("what the source moves", f"one source only, {next(iter(sources))}")
    elif len(sources) < 3:
        why = "two sources; leaving one out needs three"
        yield Gap("on which source an answer rests", why, asked=False)
    if draws < 2:
        yield Gap("the noise of the draw, any test and any interval", "one draw; run three or more")
    elif draws < 3:
        yield Gap(
            "the interval of the difference between calibration and search",
            "two draws; run three or more",
        )


def _of_choices(searches: Sequence[str], objectives: set[str]) -> Iterator[Gap]:
    if len(searches) < 2:
        yield Gap("what the search moves", f"one search only, {searches[0]}")
    if len(objectives) < 2:
        why = f"one objective only, {next(iter(objectives))}"
        yield Gap("what the objective moves", why, asked=False)
