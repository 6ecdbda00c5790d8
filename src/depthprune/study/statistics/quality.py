"""What a set is worth: the additivity gap, regret against the best known, quality against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.data import Floats, StudyData
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.table import Row


@dataclass(frozen=True)
class CostQuality:
    """A search's mean cost and quality.

    Attributes:
        search: Its name.
        cost: Mean block-tokens a cell, as if nothing had been known before it.
        seconds: Mean wall time a cell.
        quality: Mean log-perplexity or accuracy.
        cells: How many cells.
        front: Whether no other search is both cheaper and better.
    """

    search: str
    cost: float
    seconds: float
    quality: float
    cells: int
    front: bool


def additivity_gap(row: Row) -> float | NotEstimable:
    """Δ(S) − ΣΔ({i}): what removing the blocks together costs beyond the sum of each alone.

    Positive where blocks stand in for each other, 0 where one-shot's assumption holds.
    """
    if row.loss is None or row.dense_loss is None or row.alone is None:
        return NotEstimable("the losses of the whole model and of the blocks alone were not kept")
    gap = row.loss - row.dense_loss - math.fsum(row.alone)
    return gap if math.isfinite(gap) else NotEstimable("a loss is not finite")


def regret(rows: Sequence[Row]) -> dict[Row, float | NotEstimable]:
    """How far each cell's calibration loss lies above the best known set's.

    The best known is that of the cells with the same model, k, draw of the same calibration, and
    objective: losses on other draws or of other objectives say nothing about it.

    Args:
        rows: Cells; those that failed are passed over.
    """
    best: dict[object, float] = {}
    counts: dict[object, int] = {}
    for row in rows:
        if _usable(row):
            best[_place(row)] = min(best.get(_place(row), math.inf), row.loss or 0.0)
            counts[_place(row)] = counts.get(_place(row), 0) + 1
    found: dict[Row, float | NotEstimable] = {}
    for row in rows:
        if row.error is not None:
            continue
        if not _usable(row):
            found[row] = NotEstimable("its loss is not finite")
        elif counts[_place(row)] < 2:
            found[row] = NotEstimable("no other search was run there")
        else:
            found[row] = (row.loss or 0.0) - best[_place(row)]
    return found


def _usable(row: Row) -> bool:
    return row.error is None and row.loss is not None and math.isfinite(row.loss)


def _place(row: Row) -> object:
    return row.model, row.blocks, row.k, row.calibration.name, row.objective, row.draw


def pareto(cost: Sequence[float], quality: Sequence[float]) -> list[bool]:
    """Which points no other point beats: none is at most as dear and as good, and better in one.

    Args:
        cost: Lower is better.
        quality: Higher is better.
    """
    points = list(zip(cost, quality, strict=True))
    return [
        not any(c <= own[0] and q >= own[1] and (c, q) != own for c, q in points) for own in points
    ]


def quality_against_cost(data: StudyData, kind: str) -> list[CostQuality] | NotEstimable:
    """Each search's mean quality and cost, over the configurations that every search was run on.

    Args:
        data: The cells.
        kind: `perplexity` or `accuracy`.
    """
    columns = data.columns(kind)
    if not len(columns):
        return NotEstimable(f"the cells share no evaluation of {kind}")
    costs = np.asarray([[_alone(row), _cost(row, "seconds")] for row in data.rows])
    if np.isnan(costs).any():
        return NotEstimable("the cost of some cells was not kept")
    search, block = data.codes["search"], data.joint("model", "k", "objective", "unit")
    there = np.zeros((data.count("search"), int(block.max()) + 1), dtype=np.bool_)
    there[search, block] = True
    usable = np.logical_and.reduce(there, axis=0)[block]
    if not usable.any():
        return NotEstimable("no configuration was searched by every search")
    means = data.values[:, columns].mean(axis=1)
    masks = [usable & (search == level) for level in range(data.count("search"))]
    quality = [float(means[mask].mean()) for mask in masks]
    cost: list[Floats] = [costs[mask].mean(axis=0) for mask in masks]
    sign = -1 if kind == "perplexity" else 1
    front = pareto([float(c[0]) for c in cost], [sign * q for q in quality])
    return [
        CostQuality(name, float(c[0]), float(c[1]), q, int(mask.sum()), on)
        for name, c, q, mask, on in zip(
            data.levels["search"], cost, quality, masks, front, strict=True
        )
    ]


def _alone(row: Row) -> float:
    """What a cell's search costs by itself; older tables have what was left to be run only."""
    asked = None if row.cost is None else row.cost.asked_block_tokens
    return _cost(row, "block_tokens") if asked is None else float(asked)


def _cost(row: Row, field: str) -> float:
    return math.nan if row.cost is None else float(getattr(row.cost, field))
