"""Tables of a study's page that hold what was run: what each search cost and gave, every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depthprune.report import numbers
from depthprune.study.report.table_model import (
    Cell,
    Sheet,
    number,
)
from depthprune.study.statistics.estimates import Unsaid
from depthprune.study.statistics.quality import Point, regret
from depthprune.study.table import Row


def cost_sheet(points: Sequence[Point], rows: Sequence[Row], *, perplexity: bool) -> Sheet:
    """Each search's cost, quality, regret, and whether it is on the front."""
    lost = regret(rows)
    objectives = sorted({row.objective for row in rows})
    found = []
    for point in sorted(points, key=lambda point: point.cost):
        # Losses of two objectives are not in one unit, so their regrets are not averaged.
        regrets = [
            [
                value
                for row, value in lost.items()
                if (row.search, row.objective) == (point.search, objective)
                and isinstance(value, float)
            ]
            for objective in objectives
        ]
        own = [
            float(np.mean(each)) if each else Unsaid("nothing to compare with") for each in regrets
        ]
        quality = math.exp(point.quality) if perplexity else 100 * point.quality
        found.append(
            (
                Cell(point.search),
                Cell(f"{round(point.cost):,}", point.cost),
                Cell(numbers.duration(point.seconds), point.seconds),
                number(quality, 2),
                *map(number, own),
                Cell("yes" if point.front else "no"),
            )
        )
    judged = "Perplexity" if perplexity else "Accuracy, %"
    regretted = [f"Mean regret, {objective}" for objective in objectives]
    head = ("Search", "Block-tokens by itself", "Time here", judged, *regretted, "On the front")
    return Sheet("What each search costs and gives, a cell on average", head, tuple(found))


def cell_sheet(rows: Sequence[Row]) -> Sheet:
    """The table itself, a row a cell, with every evaluation that any cell has."""
    names = list(dict.fromkeys((e.name, e.kind) for row in rows for e in row.evaluations))
    seeds = len({row.search_seed for row in rows}) > 1
    found = []
    for row in rows:
        values = {(e.name, e.kind): e for e in row.evaluations}
        cells = [Cell(numbers.DASH)] * len(names)
        for i, name in enumerate(names):
            if name in values:
                value, error = values[name].value, values[name].stderr
                scale = 1 if name[1] == "perplexity" else 100
                shown = numbers.with_error(scale * value, scale * (error or 0.0))
                cells[i] = Cell(shown, scale * value)
        result = f"failed: {row.error}" if row.error else numbers.block_list(row.removed)
        found.append(
            (
                Cell(row.calibration.name),
                Cell(row.model),
                Cell(str(row.k), row.k),
                Cell(row.objective),
                Cell(row.search),
                Cell(str(row.draw), row.draw),
                *[Cell(str(row.search_seed), row.search_seed)] * seeds,
                Cell(result),
                number(row.loss),
                *cells,
            )
        )
    judged = [f"{name}, {'perplexity' if kind == 'perplexity' else '%'}" for name, kind in names]
    place = ("Calibration", "Model", "k", "Objective", "Search", "Draw", *["Seed"] * seeds)
    return Sheet("Every cell", (*place, "Removed", "Loss", *judged), tuple(found))
