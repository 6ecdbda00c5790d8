"""The cells of one model, run one after the other: what a row of the table is made of.

Cells that share a draw and an objective share an evaluator. A cell that fails is a row with its
error, and the next one goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from depthprune.calibration import Calibration, calibrate
from depthprune.errors import DepthpruneError
from depthprune.evaluator import Evaluator, Memo, Racing, RemovedSet, increase
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model
from depthprune.searches import Result, search
from depthprune.study.grid import Cell, Grid
from depthprune.study.jsonl import only_line
from depthprune.study.judging import Judged
from depthprune.study.plan_reader import Calibrated
from depthprune.study.table import CellCalibration, CellCost, DenseRow, Evaluation, Key, Row

Judge: TypeAlias = Callable[[RemovedSet], tuple[Evaluation, ...]]


@dataclass(frozen=True)
class Cells:
    """Runs cells of a grid.

    Attributes:
        grid: Whose cells they are.
        memo: Store of losses.
        workers: Who computes losses in this process's place.
    """

    grid: Grid
    memo: Memo | None = None
    workers: LossWorkers | None = None

    def rows_of(self, model: Model, judge: Judge, cells: Sequence[Cell]) -> Iterator[Row]:
        """Run the cells of one model; those of one draw share what is drawn, and an evaluator.

        Args:
            model: Whose they are.
            judge: Says what a set is worth on what no search saw.
            cells: In the grid's order.
        """
        for (name, draw), of_draw in itertools.groupby(
            cells, key=lambda c: (c.calibration, c.draw)
        ):
            group = list(of_draw)
            calibrated = self.grid.calibrations[name]
            try:
                drawn = draw_of(calibrated, model, draw)
            except DepthpruneError as error:
                yield from (self.failed(cell, model, None, error) for cell in group)
                continue
            for objective, of_objective in itertools.groupby(group, key=lambda c: c.objective):
                yield from self.rows_on(model, judge, drawn, objective, list(of_objective))

    def rows_on(
        self,
        model: Model,
        judge: Judge,
        drawn: Calibration,
        objective: str,
        cells: Sequence[Cell],
    ) -> Iterator[Row]:
        """Run cells that share a draw and an objective, and with them an evaluator.

        Args:
            model: Whose they are.
            judge: As of `rows_of`.
            drawn: What they are calibrated on.
            objective: Under which.
            cells: The cells.
        """
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
                yield self.failed(cell, model, drawn, error)

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

    def failed(
        self, cell: Cell, model: Model | None, drawn: Calibration | None, error: DepthpruneError
    ) -> Row:
        """The row of a cell that failed.

        Args:
            cell: Which.
            model: Its model, where there is one.
            drawn: What it was calibrated on, where it was drawn.
            error: Why.
        """
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


def draw_of(calibrated: Calibrated, model: Model, draw: int) -> Calibration:
    """Draw a calibration.

    Args:
        calibrated: Which.
        model: Whose tokenizer is used.
        draw: Its seed.

    Raises:
        CalibrationError: If it cannot be read.
    """
    return calibrate(list(calibrated.specs), model).redraw(draw)


def key_of(cell: Cell) -> Key:
    """What tells a cell's row from every other."""
    return (
        cell.model, cell.k, cell.calibration, cell.objective, cell.search, cell.draw, cell.seed,
    )  # fmt: skip


def dense_row(name: str, blocks: int, judged: Judged) -> DenseRow:
    """What the whole model is worth, beside which every set is read."""
    if isinstance(judged, DepthpruneError):
        return DenseRow(model=name, blocks=blocks, error=only_line(judged))
    return DenseRow(model=name, blocks=blocks, evaluations=judged)


def alone_of(evaluator: Evaluator, result: Result) -> tuple[float, ...] | None:
    """What removing each chosen block alone adds, on every window.

    Most searches have asked for that. It is never taken from what happens to be known, which
    another cell may have asked for, or not, where the study was stopped in between.
    """
    singles: list[RemovedSet] = [(block,) for block in result.removed]
    dense = evaluator.dense
    grown = tuple(increase(score, dense)[0] for score in evaluator.score(singles))
    return grown if all(abs(each) < float("inf") for each in grown) else None


def cost_of(result: Result) -> CellCost:
    """What a search spent."""
    return CellCost(
        evaluations=round(result.cost.evaluations),
        block_tokens=result.cost.block_tokens,
        asked_block_tokens=result.cost.asked_block_tokens,
        head_tokens=result.cost.head_tokens,
        seconds=result.cost.seconds,
    )


def finite(value: float) -> float | None:
    """A value that JSON can hold."""
    return value if abs(value) < float("inf") else None
