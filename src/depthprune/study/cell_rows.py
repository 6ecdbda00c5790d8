"""What a study's lines are made of: a cell's key, its cost, what each block did alone."""

from __future__ import annotations

from depthprune.errors import DepthpruneError
from depthprune.evaluator import Evaluator, RemovedSet, increase
from depthprune.searches import Result
from depthprune.study.grid import Cell, only_line
from depthprune.study.judging import Judged
from depthprune.study.table import CellCost, DenseRow, Key


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
