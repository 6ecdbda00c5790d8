"""Tables of a study's page that hold what was run: what each search cost and gave, every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depthprune.report import numbers
from depthprune.study.report.table_model import (
    TableCell,
    TextTable,
    number,
)
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.quality import CostQuality, regret
from depthprune.study.table import Row


def cost_table(
    points: Sequence[CostQuality], rows: Sequence[Row], *, perplexity: bool
) -> TextTable:
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
            float(np.mean(each)) if each else NotEstimable("nothing to compare with")
            for each in regrets
        ]
        quality = math.exp(point.quality) if perplexity else 100 * point.quality
        found.append(
            (
                TableCell(point.search),
                TableCell(f"{round(point.cost):,}", point.cost),
                TableCell(numbers.duration(point.seconds), point.seconds),
                number(quality, 2),
                *map(number, own),
                TableCell("yes" if point.front else "no"),
            )
        )
    judged = "Perplexity" if perplexity else "Accuracy, %"
    regretted = [f"Mean regret, {objective}" for objective in objectives]
    head = ("Search", "Block-tokens by itself", "Time here", judged, *regretted, "On the front")
    return TextTable("What each search costs and gives, a cell on average", head, tuple(found))


def cell_table(rows: Sequence[Row]) -> TextTable:
    """The table itself, a row a cell, with every evaluation that any cell has."""
    names = list(dict.fromkeys((e.name, e.kind) for row in rows for e in row.evaluations))
    seeds = len({row.search_seed for row in rows}) > 1
    found = []
    for row in rows:
        values = {(e.name, e.kind): e for e in row.evaluations}
        cells = [TableCell(numbers.DASH)] * len(names)
        for i, name in enumerate(names):
            if name in values:
                value, error = values[name].value, values[name].stderr
                scale = 1 if name[1] == "perplexity" else 100
                shown = numbers.with_error(scale * value, scale * (error or 0.0))
                cells[i] = TableCell(shown, scale * value)
        result = f"failed: {row.error}" if row.error else numbers.block_list(row.removed)
        found.append(
            (
                TableCell(row.calibration.name),
                TableCell(row.model),
                TableCell(str(row.k), row.k),
                TableCell(row.objective),
                TableCell(row.search),
                TableCell(str(row.draw), row.draw),
                *[TableCell(str(row.search_seed), row.search_seed)] * seeds,
                TableCell(result),
                number(row.loss),
                *cells,
            )
        )
    judged = [f"{name}, {'perplexity' if kind == 'perplexity' else '%'}" for name, kind in names]
    place = ("Calibration", "Model", "k", "Objective", "Search", "Draw", *["Seed"] * seeds)
    return TextTable("Every cell", (*place, "Removed", "Loss", *judged), tuple(found))
