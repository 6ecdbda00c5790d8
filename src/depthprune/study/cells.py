"""The cells of one model, run one after the other: what a row of the table is made of.

Cells that share a draw and an objective share an evaluator. A cell that fails is a row with its
error, and the next one goes on.

What the cells chose is judged some sets at a time, since sets that begin alike share their way
through the model: on the 80 sets of `docs/study-smollm2.md` 16 at a time take 0.64 of the
block-tokens of one at a time, and all together 0.53. Until then their rows wait (`waiting`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from depthprune.calibration import Calibration, calibrate
from depthprune.errors import DepthpruneError
from depthprune.evaluator import Evaluator, Memo, Racing, RemovedSet, increase
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model
from depthprune.searches import Result, search
from depthprune.study.evaluation import EvaluationSuite
from depthprune.study.grid import Cell, Grid
from depthprune.study.jsonl import only_line
from depthprune.study.judging import judged_by, judged_row
from depthprune.study.plan_reader import Calibrated
from depthprune.study.table import CellCalibration, CellCost, Key, Row
from depthprune.study.waiting import Waiting

_NONE: Mapping[Key, Row] = MappingProxyType({})
_TOGETHER = 16
"""Sets that are judged together."""
_PATIENCE = 1800.0
"""Seconds after which those that wait are judged, however few."""


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

    def rows_of(
        self, model: Model, suite: EvaluationSuite, cells: Sequence[Cell], waiting: Waiting
    ) -> Iterator[Row]:
        """Run the cells of one model; those of one draw share what is drawn, and an evaluator.

        Args:
            model: Whose they are.
            suite: Judges sets on what no search saw.
            cells: In the grid's order.
            waiting: Keeps what was searched until it is judged; none of it is searched again.
        """
        for rows in _together(self._searched(model, cells, waiting)):
            sets = dict.fromkeys(row.removed for row in rows if row.error is None)
            with suppress(DepthpruneError):  # which of them cannot be judged is told by itself
                suite.judge_ahead(list(sets))
            for row in rows:
                judged = row.error is None
                yield judged_row(row, judged_by(suite, row.removed)) if judged else row
            waiting.drop(rows)

    def _searched(self, model: Model, cells: Sequence[Cell], waiting: Waiting) -> Iterator[Row]:
        for (name, draw), of_draw in itertools.groupby(
            cells, key=lambda c: (c.calibration, c.draw)
        ):
            group = list(of_draw)
            if all(key_of(cell) in waiting.rows for cell in group):
                yield from (waiting.rows[key_of(cell)] for cell in group)
                continue
            try:
                drawn = draw_of(self.grid.calibrations[name], model, draw)
            except DepthpruneError as error:
                yield from (self.failed(cell, model, None, error) for cell in group)
                continue
            for _, of_objective in itertools.groupby(group, key=lambda c: c.objective):
                for row in self.rows_on(model, drawn, list(of_objective), waiting.rows):
                    if row.error is None:
                        waiting.add(row)
                    yield row

    def rows_on(
        self,
        model: Model,
        drawn: Calibration,
        cells: Sequence[Cell],
        known: Mapping[Key, Row] = _NONE,
    ) -> Iterator[Row]:
        """Run cells that share a draw and an objective, and with them an evaluator; judge nothing.

        Args:
            model: Whose they are.
            drawn: What they are calibrated on.
            cells: The cells.
            known: Rows of cells that ran already.
        """
        racing = None if self.grid.plan.exact else Racing()
        evaluator: Evaluator | None = None
        for cell in cells:
            if key_of(cell) in known:
                yield known[key_of(cell)]
                continue
            try:
                if evaluator is None:
                    evaluator = Evaluator(
                        model,
                        drawn,
                        cell.objective,
                        memo=self.memo,
                        racing=racing,
                        workers=self.workers,
                    )
                yield self._row(cell, evaluator)
            except DepthpruneError as error:
                yield self.failed(cell, model, drawn, error)

    def _row(self, cell: Cell, evaluator: Evaluator) -> Row:
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


def _together(found: Iterator[Row]) -> Iterator[list[Row]]:
    """In lists that are judged together."""
    rows: list[Row] = []
    sets: set[RemovedSet] = set()
    since = time.monotonic()
    for row in found:
        rows.append(row)
        if row.error is None:
            sets.add(row.removed)
        if len(sets) >= _TOGETHER or time.monotonic() - since > _PATIENCE:
            yield rows
            rows, sets, since = [], set(), time.monotonic()
    if rows:
        yield rows


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
