"""Planted tables: grids whose responses are a formula, so that the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from depthprune.study.finalists import FinalRow
from depthprune.study.plan import Stated
from depthprune.study.report.page import notes_of, page_of
from depthprune.study.report.sections import sections_of
from depthprune.study.statistics.effects import analyse
from depthprune.study.statistics.findings import findings_of
from depthprune.study.table import CellCalibration, CellCost, Evaluation, Row, Table

SEARCHES = ("one-shot", "greedy", "beam", "genetic")
SOURCES = ("prose", "code", "news", "law")
COSTS = {"one-shot": 1.0, "greedy": 5.1, "beam": 23.0, "genetic": 7.4, "window": 0.8}


@dataclass(frozen=True)
class Cell:
    """Where a cell stands in the grid, and a source of chance of its own draw and of itself."""

    model: str
    k: int
    source: str
    length: int
    objective: str
    search: str
    draw: int
    luck: float
    own: float


@dataclass(frozen=True)
class Grid:
    """A crossed design; `log_perplexity` and `accuracy` say what comes of a cell."""

    log_perplexity: Callable[[Cell], float]
    accuracy: Callable[[Cell], float] | None = None
    models: Sequence[str] = ("smol",)
    ks: Sequence[int] = (6,)
    sources: Sequence[str] = SOURCES
    lengths: Sequence[int] = (512,)
    objectives: Sequence[str] = ("nll",)
    searches: Sequence[str] = SEARCHES
    draws: int = 3
    kind: str = "text"
    texts: Sequence[str] = ("prose",)
    blocks: int = 30
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        rng = np.random.default_rng(self.seed)
        luck = {
            (source, length, draw): rng.standard_normal()
            for source in self.sources
            for length in self.lengths
            for draw in range(self.draws)
        }
        return [
            self._row(
                Cell(
                    model, k, source, length, objective, search, draw,
                    luck[source, length, draw], rng.standard_normal(),
                ),
                rng,
            )
            for model in self.models
            for k in self.ks
            for (source, length, draw) in luck
            for objective in self.objectives
            for search in self.searches
        ]  # fmt: skip

    def _row(self, cell: Cell, rng: np.random.Generator) -> Row:
        evaluations = [
            Evaluation(
                name=text,
                kind="perplexity",
                value=math.exp(self.log_perplexity(cell)),
                stderr=0.4,
                n=16,
                source=text,
            )
            for text in self.texts
        ]
        if self.accuracy is not None:
            value = self.accuracy(cell)
            evaluations.append(
                Evaluation(name="arc-easy", kind="accuracy", value=value, stderr=0.03, n=250)
            )
        choices = self.kind == "choices"
        return Row(
            **{
                "model": cell.model,
                "blocks": self.blocks,
                "protect": (0,),
                "k": cell.k,
                "calibration": CellCalibration(
                    name=cell.source if len(self.lengths) == 1 else f"{cell.source}-{cell.length}",
                    kind=self.kind,
                    source=cell.source,
                    length=None if choices else cell.length,
                    windows=4,
                    tokens=4 * cell.length,
                ),
                "objective": cell.objective,
                "search": cell.search,
                "draw": cell.draw,
                "removed": self._removed(cell, rng),
                "loss": self.log_perplexity(cell) - 0.1,
                "stderr": 0.05,
                "dense_loss": 2.9,
                "alone": (0.1,) * cell.k,
                "cost": CellCost(
                    evaluations=int(30 * COSTS[cell.search]),
                    block_tokens=int(1e6 * COSTS[cell.search]),
                    head_tokens=int(1e5 * COSTS[cell.search]),
                    seconds=20 * COSTS[cell.search],
                ),
                "evaluations": evaluations,
                **self.changes,
            }
        )

    def _removed(self, cell: Cell, rng: np.random.Generator) -> tuple[int, ...]:
        """Neighbours at a depth that the source decides, with one block by chance."""
        start = 2 + 5 * list(self.sources).index(cell.source)
        chosen = set(range(start, start + cell.k - 1))
        while len(chosen) < cell.k:
            chosen.add(int(rng.integers(1, self.blocks)))
        return tuple(sorted(chosen))


def calibration_only(**changes: Any) -> list[Row]:
    """What differs is the source; draws add a hundredth of it, searches nothing."""
    return Grid(
        lambda cell: 3.5 + 0.3 * SOURCES.index(cell.source) + 0.005 * cell.luck + 0.002 * cell.own,
        lambda cell: 0.45 - 0.04 * SOURCES.index(cell.source) + 0.001 * cell.luck,
        **changes,
    ).rows()


def search_only(**changes: Any) -> list[Row]:
    """What differs is the search; draws add a hundredth of it, sources nothing."""
    return Grid(
        lambda cell: 3.5 + 0.3 * SEARCHES.index(cell.search) + 0.005 * cell.luck + 0.002 * cell.own,
        lambda cell: 0.45 - 0.04 * SEARCHES.index(cell.search) + 0.001 * cell.luck,
        **changes,
    ).rows()


def noise_only(**changes: Any) -> list[Row]:
    """Luck of the draw, shared by its cells, and of the cell."""
    return Grid(
        lambda cell: 3.5 + 0.05 * cell.luck + 0.03 * cell.own,
        lambda cell: 0.4 + 0.02 * cell.luck + 0.01 * cell.own,
        **changes,
    ).rows()


def own_domain_only(noise: float = 0.0, **changes: Any) -> list[Row]:
    """A text costs 3.5 where it was calibrated on, elsewhere 4; three texts, one of them unseen."""
    grid = Grid(
        lambda cell: 3.5 + noise * cell.luck,
        lambda cell: 0.4,
        texts=("prose", "code", "poems"),
        **changes,
    )
    found = []
    for row in grid.rows():
        evaluations = tuple(
            each
            if each.name in (row.calibration.source, "arc-easy")
            else each.model_copy(update={"value": each.value * math.exp(0.5)})
            for each in row.evaluations
        )
        found.append(row.model_copy(update={"evaluations": evaluations}))
    return found


def render_study(
    table: Table,
    *,
    plan: str = "",
    title: str = "",
    finals: Sequence[FinalRow] = (),
    stated: Stated | None = None,
) -> str:
    """The page of a study."""
    stated = stated or Stated()
    parts = analyse(table.rows, stated.margin)
    sections = sections_of(parts, table.rows, finals, table.dense)
    found = findings_of(parts, table.rows)
    return page_of(table, found, sections, notes_of(parts, stated), plan=plan, title=title)
