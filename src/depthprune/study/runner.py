"""Running a study: cell by cell, each written as it ends, nothing computed twice.

Cells that share a draw stand together and share one evaluator; all share the memo. A cell that
fails is written with its error and the rest goes on. A study that was stopped goes on where it was:
the table says which cells are done, and the memo what the others had computed.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from depthprune.calibration import Calibration, calibrate
from depthprune.engine.cluster import Cluster
from depthprune.engine.losses import RayLosses
from depthprune.engine.memo import memo_on
from depthprune.engine.shipping import on_worker
from depthprune.errors import DepthpruneError
from depthprune.evaluator import Evaluator, Memo, Racing, RemovedSet
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model, load
from depthprune.progress import SILENT, Progress
from depthprune.searches import search
from depthprune.study.cell_rows import alone_of, cost_of, dense_row, finite, key_of
from depthprune.study.estimable import require_items
from depthprune.study.evaluation import EvaluationSuite, evaluators, make_suite
from depthprune.study.grid import Calibrated, Cell, Grid, only_line
from depthprune.study.judging import Finish, judged_by
from depthprune.study.on_workers import StudyFactory, Unit, as_tokens, lines_of
from depthprune.study.table import (
    TABLE_NAME,
    CellCalibration,
    DenseRow,
    Evaluation,
    Line,
    Row,
    append,
    read,
    resume,
    write,
)

Judge: TypeAlias = Callable[[RemovedSet], tuple[Evaluation, ...]]


@dataclass(frozen=True)
class Outcome:
    """How a study ended.

    Attributes:
        done: Cells in the table that ran.
        failed: Cells in the table that failed.
        new: Cells that this run wrote.
    """

    done: int
    failed: int
    new: int


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
        workers: Who computes losses of the cells that are run here.
    """

    grid: Grid
    folder: Path
    memo: Memo | None = None
    progress: Progress = SILENT
    loader: Callable[..., Model] = load
    cluster: Cluster | None = None
    workers: LossWorkers | None = None

    @property
    def table(self) -> Path:
        """The results table."""
        return self.folder / TABLE_NAME

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
            for row in self._rows(todo, {row.model for row in table.dense}):
                append(self.table, row)
                if isinstance(row, DenseRow):
                    continue
                failed += row.error is not None
                done += row.error is None
                step.advance(1)
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

    def _rows(self, cells: Sequence[Cell], dense: Set[str]) -> Iterator[Line]:
        for name, of_model in itertools.groupby(cells, key=lambda cell: cell.model):
            group = list(of_model)
            # Let the last model go before the next one is loaded beside it.
            model = suite = None
            gc.collect()
            try:
                model = self._load(name)
                suite = self._suite(model)
            except DepthpruneError as error:
                yield from (self._failed(cell, None, None, error) for cell in group)
                continue
            self._check_items(suite)
            whole = partial(dense_row, name, model.blocks) if name not in dense else None
            if self.cluster is not None:
                yield from self._rows_elsewhere(self.cluster, model, suite, group, whole)
                continue
            if whole is not None:
                yield whole(judged_by(suite, ()))
            yield from self._rows_of(model, suite, group)

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
        self,
        cluster: Cluster,
        model: Model,
        suite: EvaluationSuite,
        cells: Sequence[Cell],
        whole: Finish | None,
    ) -> Iterator[Line]:
        """The cells of one model, run and judged by workers; where those fail, all that is left."""
        left = {key_of(cell): cell for cell in cells}
        try:
            for line in self._lines_elsewhere(cluster, model, suite, cells, whole):
                if isinstance(line, Row):
                    del left[line.key]
                else:
                    whole = None
                yield line
        except DepthpruneError as error:
            if whole is not None:
                yield whole(error)
            yield from (self._failed(cell, None, None, error) for cell in left.values())

    def _lines_elsewhere(
        self,
        cluster: Cluster,
        model: Model,
        suite: EvaluationSuite,
        cells: Sequence[Cell],
        whole: Finish | None,
    ) -> Iterator[Line]:
        grid, name = self.grid, cells[0].model
        load = on_worker(
            cluster,
            model.source,
            grid.place(name),
            dtype=model.dtype,
            device=torch.device(model.device).type,
        )
        if len({(c.calibration, c.draw, c.objective) for c in cells}) < cluster.workers:
            # Whole searches would leave workers idle, so each search is cut among all of them.
            with RayLosses(cluster, load, model) as workers:
                texts, items = (
                    {each: judge.calibration for each, judge in named.items()}
                    for named in (suite.texts, suite.items)
                )
                by, homes = grid.plan.by, grid.plan.homes
                suite = evaluators(model, texts, items, by, homes, self.memo, workers)
                if whole is not None:
                    yield whole(judged_by(suite, ()))
                yield from replace(self, workers=workers)._rows_of(model, suite, cells)
            return
        units: list[Unit] = []
        drawn: dict[str, Calibration] = {}
        for (calibration, draw, _), of_unit in itertools.groupby(
            cells, key=lambda c: (c.calibration, c.draw, c.objective)
        ):
            group, key = tuple(of_unit), f"{calibration} {draw}"
            try:
                if key not in drawn:
                    drawn[key] = _drawn(grid.calibrations[calibration], model, draw)
            except DepthpruneError as error:
                yield from (self._failed(cell, model, None, error) for cell in group)
                continue
            units.append(Unit(key, group))
        with memo_on(cluster, self.memo) as memo:
            factory = StudyFactory(
                load=load,
                run=partial(_run, grid, self.folder),
                texts=_travelling(suite.texts),
                items=_travelling(suite.items),
                homes=grid.plan.homes,
                by=grid.plan.by,
                memo=memo,
            )
            yield from lines_of(cluster, factory, model, drawn, units, self._failed, whole)

    def _rows_of(
        self, model: Model, suite: EvaluationSuite, cells: Sequence[Cell]
    ) -> Iterator[Row]:
        """The cells of one model; those of one draw share what is drawn, and an evaluator."""
        for (name, draw), of_draw in itertools.groupby(
            cells, key=lambda c: (c.calibration, c.draw)
        ):
            group = list(of_draw)
            calibrated = self.grid.calibrations[name]
            try:
                drawn = _drawn(calibrated, model, draw)
            except DepthpruneError as error:
                yield from (self._failed(cell, model, None, error) for cell in group)
                continue
            for objective, of_objective in itertools.groupby(group, key=lambda c: c.objective):
                yield from self._rows_on(model, suite.judge, drawn, objective, list(of_objective))

    def _rows_on(
        self,
        model: Model,
        judge: Judge,
        drawn: Calibration,
        objective: str,
        cells: Sequence[Cell],
    ) -> Iterator[Row]:
        racing = None if self.grid.plan.exact else Racing()
        evaluator: Evaluator | None = None
        for cell in cells:
            try:
                if evaluator is None:
                    evaluator = Evaluator(
                        model,
                        drawn,
                        objective,
                        memo=self.memo,
                        racing=racing,
                        workers=self.workers,
                    )
                yield self._row(cell, evaluator, judge)
            except DepthpruneError as error:
                yield self._failed(cell, model, drawn, error)

    def _row(self, cell: Cell, evaluator: Evaluator, judge: Judge) -> Row:
        protect = self.grid.protect
        # Cells of a draw share losses; their costs and budgets are those of each alone.
        evaluator.forget_asked()
        result = search(
            cell.search,
            evaluator,
            k=cell.k,
            seed=cell.seed,
            protect=protect,
            budget=self.grid.budget,
        )
        dense = evaluator.dense
        return Row(
            **self._facts(cell, evaluator.blocks, evaluator.calibration),
            protect=protect,
            removed=result.removed,
            loss=result.score.loss,
            stderr=finite(result.score.stderr),
            dense_loss=dense.loss,
            alone=alone_of(evaluator, result),
            cost=cost_of(result),
            evaluations=judge(result.removed),
        )

    def _failed(
        self, cell: Cell, model: Model | None, drawn: Calibration | None, error: DepthpruneError
    ) -> Row:
        blocks = model.blocks if model is not None else max(cell.k, 1)
        return Row(**self._facts(cell, blocks, drawn), error=only_line(error))

    def _facts(self, cell: Cell, blocks: int, drawn: Calibration | None) -> dict[str, Any]:
        calibrated = self.grid.calibrations[cell.calibration]
        text = not calibrated.judges_items
        return {
            "model": cell.model,
            "blocks": blocks,
            "k": cell.k,
            "calibration": CellCalibration(
                name=cell.calibration,
                kind="text" if text else "choices",
                source=calibrated.family,
                length=max(spec.length for spec in calibrated.specs) if text else None,
                windows=len(drawn.windows) if drawn is not None else 1,
                tokens=sum(int(w.scored.sum()) for w in drawn.windows) if drawn is not None else 0,
            ),
            "objective": cell.objective,
            "search": cell.search,
            "draw": cell.draw,
            "search_seed": cell.seed,
        }


def _run(
    grid: Grid,
    folder: Path,
    model: Model,
    drawn: Calibration,
    cells: Sequence[Cell],
    memo: Memo | None,
) -> list[Row]:
    """In a worker: cells that share a draw and an objective, which others judge."""
    study = Study(grid, folder, memo)
    return list(study._rows_on(model, lambda _: (), drawn, cells[0].objective, cells))


def _travelling(judges: Mapping[str, Evaluator]) -> dict[str, Calibration]:
    return {name: as_tokens(each.calibration) for name, each in judges.items()}


def _drawn(calibrated: Calibrated, model: Model, draw: int) -> Calibration:
    return calibrate(list(calibrated.specs), model).redraw(draw)
