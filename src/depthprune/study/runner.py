"""Running a study: cell by cell, each written when it is judged, nothing computed twice.

Cells that share a draw stand together and share one evaluator; all share the memo. A cell that
fails is written with its error and the rest goes on. A study that was stopped goes on where it was:
the table says which cells are done, and the memo what the others had computed.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from depthprune.calibration import Calibration
from depthprune.engine.cluster import Cluster
from depthprune.engine.losses import RayLosses
from depthprune.engine.memo import memo_on
from depthprune.engine.shipping import on_worker
from depthprune.errors import DepthpruneError
from depthprune.evaluator import Evaluator, Memo
from depthprune.models.loading import Model, load
from depthprune.progress import SILENT, Progress, ProgressStep
from depthprune.study.cells import Cells, draw_of, key_of
from depthprune.study.estimable import require_items
from depthprune.study.evaluation import EvaluationSuite, evaluators, make_suite
from depthprune.study.grid import Cell, Grid
from depthprune.study.jsonl import Outcome
from depthprune.study.judging import Finish, dense_row, judged_by
from depthprune.study.on_workers import StudyFactory, Unit, as_tokens, lines_of
from depthprune.study.table import (
    TABLE_NAME,
    DenseRow,
    Key,
    Line,
    Row,
    append,
    read,
    resume,
    write,
)
from depthprune.study.waiting import Waiting


@dataclass(frozen=True)
class Study:
    """A grid being run into a folder.

    Attributes:
        grid: What is run.
        folder: Where the table lies.
        memo: Store of losses.
        progress: Where the work shows itself.
        loader: Loads a model by its name.
        cluster: Whose workers run the cells; None runs them here.
    """

    grid: Grid
    folder: Path
    memo: Memo | None = None
    progress: Progress = SILENT
    loader: Callable[..., Model] = load
    cluster: Cluster | None = None

    @property
    def table(self) -> Path:
        """The results table."""
        return self.folder / TABLE_NAME

    @property
    def _cells(self) -> Cells:
        return Cells(self.grid, self.memo)

    def run(self) -> Outcome:
        """Run every cell that is not in the table yet.

        Raises:
            UsageError: If the folder holds the table of another plan.
        """
        table = resume(self.table, self.grid.fingerprint)
        known = {row.key for row in table.rows}
        todo = [cell for cell in self.grid.cells if key_of(cell) not in known]
        failed = sum(row.error is not None for row in table.rows)
        done = len(table.rows) - failed
        with self.progress.step(f"running {len(todo)} cells", len(todo), "cells") as step:
            halves = _Halves(step)
            waiting = Waiting.of(self.folder, self.grid.fingerprint, halves.searched)
            for row in self._rows(todo, {row.model for row in table.dense}, waiting):
                append(self.table, row)
                if isinstance(row, DenseRow):
                    continue
                failed += row.error is not None
                done += row.error is None
                halves.written(row)
            waiting.clear()
        if self.cluster is not None and todo:
            self._in_order()
        return Outcome(done, failed, len(todo))

    def _in_order(self) -> None:
        """Give the table the order of the grid, which workers do not keep."""
        table = read(self.table, self.grid.fingerprint)
        rows = {row.key: row for row in table.rows}
        ordered: list[Line] = []
        for name, cells in itertools.groupby(self.grid.cells, key=lambda cell: cell.model):
            ordered += [row for row in table.dense if row.model == name]
            ordered += [rows[key_of(cell)] for cell in cells]
        write(self.table, self.grid.fingerprint, ordered)

    def _rows(self, cells: Sequence[Cell], dense: Set[str], waiting: Waiting) -> Iterator[Line]:
        for name, of_model in itertools.groupby(cells, key=lambda cell: cell.model):
            group = list(of_model)
            # Let the last model go before the next one is loaded beside it.
            model = suite = None
            gc.collect()
            try:
                model = self._load(name)
                suite = self._suite(model)
            except DepthpruneError as error:
                yield from (self._cells.failed(cell, None, None, error) for cell in group)
                continue
            self._check_items(suite)
            whole = partial(dense_row, name, model.blocks) if name not in dense else None
            if self.cluster is not None:
                left = _OfModel(model, suite, group, whole)
                yield from self._rows_elsewhere(self.cluster, left, waiting)
                continue
            if whole is not None:
                yield whole(judged_by(suite, ()))
            yield from self._cells.rows_of(model, suite, group, waiting)

    def _check_items(self, suite: EvaluationSuite) -> None:
        """Refuse what has fewer items than the plan asks for, before any cell is run on it."""
        for name, evaluator in suite.items.items():
            require_items(self.grid.plan, name, len(evaluator.calibration.windows))

    def _load(self, name: str) -> Model:
        plan = self.grid.plan
        return self.loader(self.grid.place(name), dtype=plan.dtype, device=plan.device)

    def _suite(self, model: Model) -> EvaluationSuite:
        grid = self.grid
        by, homes = grid.plan.by, grid.plan.homes
        return make_suite(model, grid.texts, grid.choices, by, homes, self.memo, grid.split_of)

    def _rows_elsewhere(
        self, cluster: Cluster, of_model: _OfModel, waiting: Waiting
    ) -> Iterator[Line]:
        """The cells of one model, run and judged by workers; where those fail, all that is left."""
        left, whole = {key_of(cell): cell for cell in of_model.cells}, of_model.whole
        try:
            for line in self._lines_elsewhere(cluster, of_model, waiting):
                if isinstance(line, Row):
                    del left[line.key]
                else:
                    whole = None
                yield line
        except DepthpruneError as error:
            if whole is not None:
                yield whole(error)
            yield from (self._cells.failed(cell, None, None, error) for cell in left.values())

    def _lines_elsewhere(
        self, cluster: Cluster, of_model: _OfModel, waiting: Waiting
    ) -> Iterator[Line]:
        grid, model, suite, cells = self.grid, of_model.model, of_model.suite, of_model.cells
        load = on_worker(cluster, model, grid.place(cells[0].model))
        if len({(c.calibration, c.draw, c.objective) for c in cells}) < cluster.workers:
            with RayLosses(cluster, load, model) as workers:
                yield from self._lines_cut(workers, of_model, waiting)
            return
        units: list[Unit] = []
        drawn: dict[str, Calibration] = {}
        for (calibration, draw, _), of_unit in itertools.groupby(
            cells, key=lambda c: (c.calibration, c.draw, c.objective)
        ):
            group, key = tuple(of_unit), f"{calibration} {draw}"
            try:
                if key not in drawn:
                    drawn[key] = draw_of(grid.calibrations[calibration], model, draw)
            except DepthpruneError as error:
                yield from (self._cells.failed(cell, model, None, error) for cell in group)
                continue
            units.append(Unit(key, group))
        with memo_on(cluster, self.memo) as memo:
            factory = StudyFactory(
                load=load,
                run=partial(_run, grid),
                texts=_travelling(suite.texts),
                items=_travelling(suite.items),
                homes=grid.plan.homes,
                by=grid.plan.by,
                memo=memo,
            )
            failed, whole = self._cells.failed, of_model.whole
            yield from lines_of(cluster, factory, model, drawn, units, failed, whole)

    def _lines_cut(
        self, workers: RayLosses, of_model: _OfModel, waiting: Waiting
    ) -> Iterator[Line]:
        """The same one search after the other, each cut among workers that would else be idle."""
        texts, items = (
            {name: judge.calibration for name, judge in named.items()}
            for named in (of_model.suite.texts, of_model.suite.items)
        )
        plan, model = self.grid.plan, of_model.model
        suite = evaluators(model, texts, items, plan.by, plan.homes, self.memo, workers)
        if of_model.whole is not None:
            yield of_model.whole(judged_by(suite, ()))
        cut = Cells(self.grid, self.memo, workers)
        yield from cut.rows_of(model, suite, of_model.cells, waiting)


@dataclass(frozen=True)
class _OfModel:
    """What is left to run of one model.

    Attributes:
        model: The model.
        suite: Judges sets on what no search saw.
        cells: In the grid's order.
        whole: Makes the line of the whole model; None where the table has it.
    """

    model: Model
    suite: EvaluationSuite
    cells: Sequence[Cell]
    whole: Finish | None


class _Halves:
    """A cell is half done when it is searched, and done when it is judged and written.

    Args:
        step: Shows cells.
    """

    def __init__(self, step: ProgressStep) -> None:
        self._step = step
        self._half: set[Key] = set()

    def searched(self, row: Row) -> None:
        """A search has ended."""
        self._half.add(row.key)
        self._step.advance(0.5)

    def written(self, row: Row) -> None:
        """A row stands in the table."""
        self._step.advance(0.5 if row.key in self._half else 1.0)


def _run(
    grid: Grid,
    model: Model,
    drawn: Calibration,
    cells: Sequence[Cell],
    memo: Memo | None,
) -> list[Row]:
    """In a worker: cells that share a draw and an objective, which others judge."""
    return list(Cells(grid, memo).rows_on(model, drawn, cells))


def _travelling(judges: Mapping[str, Evaluator]) -> dict[str, Calibration]:
    return {name: as_tokens(each.calibration) for name, each in judges.items()}
