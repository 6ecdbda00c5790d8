"""The finalists of a study as a table: each set on each task, beside the whole model."""

from __future__ import annotations

from collections.abc import Sequence

from depthprune.report import numbers
from depthprune.study.finalists import FinalRow, FinalScore
from depthprune.study.report.table_model import DASH, TableCell, TextTable


def final_table(finals: Sequence[FinalRow]) -> TextTable:
    """A row a set and metric, the whole model's value beside it; what failed, with its error.

    Args:
        finals: The lines of the finalists' table.
    """
    whole = {
        (row.model, row.name, *_metric(score)): score
        for row in finals
        if not row.removed
        for score in row.scores
    }
    rows: list[tuple[TableCell, ...]] = []
    for row in finals:
        set_ = numbers.block_list(row.removed) if row.removed else "none: the whole model"
        lead = (TableCell(row.model), TableCell(str(row.k), row.k), TableCell(set_))
        if row.error is not None:
            rows.append(
                (*lead, TableCell(row.name), DASH, TableCell(f"failed: {row.error}"), DASH, DASH)
            )
        for score in row.scores:
            dense = whole.get((row.model, row.name, *_metric(score)))
            name = score.metric if score.filter == "none" else f"{score.metric}, {score.filter}"
            rows.append(
                (
                    *lead,
                    TableCell(score.task),
                    TableCell(name),
                    _value(score),
                    DASH if dense is None else _value(dense),
                    TableCell(f"{score.n:,}", score.n),
                )
            )
    head = ("Model", "k", "Removed", "Task", "Metric", "Value", "Whole model", "Items")
    return TextTable(
        "Finalists on tasks and problems, each beside the whole model", head, tuple(rows)
    )


def _metric(score: FinalScore) -> tuple[str, str, str]:
    return score.task, score.metric, score.filter


def _value(score: FinalScore) -> TableCell:
    return TableCell(numbers.with_error(score.value, score.stderr or 0.0), score.value)
