"""Tables of a study's page that hold what was run: what each search cost and gave, every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depthprune.report import numbers
from depthprune.study.report.table_model import (
    DASH,
    TableCell,
    TextTable,
    number,
)
from depthprune.study.statistics.effects import StudyPart
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.quality import CostQuality, regret
from depthprune.study.table import DenseRow, Evaluation, Row


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


def worth_table(part: StudyPart, dense: Sequence[DenseRow]) -> TextTable:
    """What the sets of each search are worth, the whole model first.

    Args:
        part: Of a table.
        dense: Of each model, what it is worth whole; of some there may be no line.
    """
    data = part.compared
    own = [row for row in dense if row.model == part.model and row.error is None]
    rows: list[tuple[TableCell, ...]] = []
    for whole in own:
        values: dict[tuple[str, str], Evaluation] = {(e.name, e.kind): e for e in whole.evaluations}
        cells = [_evaluated(values.get((each.name, each.kind))) for each in data.responses]
        rows.append((TableCell("the whole model"), TableCell("0", 0), *cells))
    k, search = (np.asarray(data.levels[name])[data.codes[name]] for name in ("k", "search"))
    for size in sorted(set(k.tolist()), key=int):
        for name in data.levels["search"]:
            inside = (k == size) & (search == name)
            if not inside.any():
                continue
            means = data.values[inside].mean(axis=0)
            cells = [
                number(math.exp(mean) if each.kind == "perplexity" else 100 * mean, 2)
                for mean, each in zip(means.tolist(), data.responses, strict=True)
            ]
            rows.append((TableCell(f"without {size}, by {name}"), _count(inside), *cells))
    judged = [
        f"{each.name}, {'perplexity' if each.kind == 'perplexity' else '%'}"
        for each in data.responses
    ]
    caption = (
        "What the sets are worth, on average of the compared cells (of perplexities the geometric "
        "mean); of the whole model with the standard error between windows or items"
    )
    return TextTable(caption, ("Model", "Cells", *judged), tuple(rows))


def _count(inside: NDArray[np.bool_]) -> TableCell:
    return TableCell(f"{int(inside.sum()):,}", int(inside.sum()))


def _evaluated(found: Evaluation | None) -> TableCell:
    if found is None:
        return DASH
    scale = 1 if found.kind == "perplexity" else 100
    shown = numbers.with_error(scale * found.value, scale * (found.stderr or 0.0))
    return TableCell(shown, scale * found.value)


def cell_table(rows: Sequence[Row], dense: Sequence[DenseRow] = ()) -> TextTable:
    """The table itself, a row a cell, with every evaluation that any cell has.

    Args:
        rows: The cells.
        dense: The whole models, which stand first.
    """
    names = list(dict.fromkeys((e.name, e.kind) for row in rows for e in row.evaluations))
    seeds = len({row.search_seed for row in rows}) > 1
    found: list[tuple[TableCell, ...]] = []
    for whole in dense:
        values = {(e.name, e.kind): e for e in whole.evaluations}
        result = f"failed: {whole.error}" if whole.error else "none: the whole model"
        place = (DASH, TableCell(whole.model), TableCell("0", 0), *[DASH] * (3 + seeds))
        judged_whole = [_evaluated(values.get(name)) for name in names]
        found.append((*place, TableCell(result), DASH, *judged_whole))
    for row in rows:
        values = {(e.name, e.kind): e for e in row.evaluations}
        cells = [_evaluated(values.get(name)) for name in names]
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
    head = ("Calibration", "Model", "k", "Objective", "Search", "Draw", *["Seed"] * seeds)
    return TextTable("Every cell", (*head, "Removed", "Loss", *judged), tuple(found))
