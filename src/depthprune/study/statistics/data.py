"""The table as arrays: cells by responses, with a code for each factor.

Statistics are computed for all responses at once, one column each: log-perplexity (perplexities
multiply, their logarithms add) or accuracy. A column is there only if every cell was judged on it,
so that no comparison mixes texts; what some cells lack is named in `partial`.

Where every cell kept what each window or item gave, a column is also had without each group of them
in turn (`without_items`), which is what the items' own error is made of. Groups are runs of
neighbours, since neighbouring windows may be of one document.

A *unit* is one draw of one calibration. All searches and objectives read the same draw, so cells
of one unit share its luck; whatever asks for independent repetitions has to count units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from depthprune.study.items import unpack
from depthprune.study.table import Evaluation, Row

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FACTORS = (
    "model", "k", "kind", "calibration", "source", "length", "windows", "objective", "search",
    "seed", "unit",
)  # fmt: skip
ITEM_GROUPS = 20
"""Groups that items are left out in; fewer where there are fewer items."""


@dataclass(frozen=True)
class Response:
    """What a column measures.

    Attributes:
        name: The text or task.
        kind: `perplexity` (the column holds its logarithm) or `accuracy` (a fraction).
    """

    name: str
    kind: str


@dataclass(frozen=True)
class StudyData:
    """Cells that ran, as arrays.

    Attributes:
        rows: The cells.
        codes: For each of `FACTORS`, the level of each cell, shape (cells,).
        levels: For each of `FACTORS`, its levels in words.
        responses: What the columns are.
        values: Log-perplexity or accuracy, shape (cells, responses).
        partial: Responses that only some cells have.
        left_out: How many cells that ran have an evaluation that is not finite.
        without_items: The values without each group of items, shape (groups, cells, responses);
            NaN where a response has fewer groups, or results by item were not kept.
    """

    rows: tuple[Row, ...]
    codes: dict[str, Ints]
    levels: dict[str, tuple[str, ...]]
    responses: tuple[Response, ...]
    values: Floats
    partial: tuple[Response, ...] = ()
    left_out: int = 0
    without_items: Floats | None = None

    def joint(self, *factors: str) -> Ints:
        """One code for each combination of the factors' levels, from 0, shape (cells,)."""
        if not factors:
            return np.zeros(len(self.rows), dtype=np.int64)
        stacked = np.stack([self.codes[factor] for factor in factors], axis=1)
        return np.unique(stacked, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def count(self, factor: str) -> int:
        """How many levels a factor has."""
        return len(self.levels[factor])

    def columns(self, kind: str) -> Ints:
        """Indices of the responses of a kind."""
        return columns_of(self.responses, kind)

    def take(self, cells: Ints) -> StudyData:
        """Some of the cells, with the levels that they have.

        Args:
            cells: Indices, shape (cells,).
        """
        codes, levels = {}, {}
        for factor in FACTORS:
            kept, code = np.unique(self.codes[factor][cells], return_inverse=True)
            codes[factor] = code.reshape(-1).astype(np.int64)
            levels[factor] = tuple(self.levels[factor][level] for level in kept)
        rows = tuple(self.rows[i] for i in cells)
        without = None if self.without_items is None else self.without_items[:, cells]
        return replace(
            self,
            rows=rows,
            codes=codes,
            levels=levels,
            values=self.values[cells],
            without_items=without,
        )


def data(rows: Sequence[Row], *, model: str | None = None, kind: str | None = None) -> StudyData:
    """Arrays of the cells that ran.

    Args:
        rows: Of a table; cells that failed are passed over.
        model: Take this model's only.
        kind: Take `text` or `choices` calibrations only. The two are never compared cell by cell:
            they share neither objectives nor lengths.
    """
    chosen = [
        row
        for row in rows
        if row.error is None and model in (None, row.model) and kind in (None, row.calibration.kind)
    ]
    finite = [row for row in chosen if all(math.isfinite(e.value) for e in row.evaluations)]
    codes, levels = {}, {}
    for factor in FACTORS:
        codes[factor], levels[factor] = _code([_level(row, factor) for row in finite])
    shared, partial = _responses(finite)
    values = np.asarray([[_value(row, each) for each in shared] for row in finite], dtype=float)
    return StudyData(
        rows=tuple(finite),
        codes=codes,
        levels=levels,
        responses=shared,
        values=values.reshape(len(finite), len(shared)),
        partial=partial,
        left_out=len(chosen) - len(finite),
        without_items=_without_items(finite, shared),
    )


def columns_of(responses: Sequence[Response], kind: str) -> Ints:
    """Indices of the responses of a kind."""
    chosen = [i for i, response in enumerate(responses) if response.kind == kind]
    return np.asarray(chosen, dtype=np.int64)


def _level(row: Row, factor: str) -> str | int | tuple[str, int]:
    calibration = row.calibration
    found: dict[str, str | int | tuple[str, int]] = {
        "model": row.model,
        "k": row.k,
        "kind": calibration.kind,
        "calibration": calibration.name,
        "source": calibration.source,
        "length": calibration.length or 0,
        "windows": calibration.windows,
        "objective": row.objective,
        "search": row.search,
        "seed": row.search_seed,
        "unit": (calibration.name, row.draw),
    }
    return found[factor]


def _code(values: Sequence[str | int | tuple[str, int]]) -> tuple[Ints, tuple[str, ...]]:
    distinct = sorted(set(values))
    number = {value: i for i, value in enumerate(distinct)}
    words = tuple(
        f"{value[0]}, draw {value[1]}" if isinstance(value, tuple) else str(value)
        for value in distinct
    )
    return np.asarray([number[value] for value in values], dtype=np.int64), words


def _responses(rows: Sequence[Row]) -> tuple[tuple[Response, ...], tuple[Response, ...]]:
    counts: dict[Response, int] = {}
    for row in rows:
        for evaluation in row.evaluations:
            response = Response(evaluation.name, evaluation.kind)
            counts[response] = counts.get(response, 0) + 1
    shared = tuple(response for response, count in counts.items() if count == len(rows))
    return shared, tuple(response for response in counts if response not in shared)


def _value(row: Row, response: Response) -> float:
    value = _evaluation(row, response).value
    return math.log(value) if response.kind == "perplexity" else value


def _evaluation(row: Row, response: Response) -> Evaluation:
    for evaluation in row.evaluations:
        if (evaluation.name, evaluation.kind) == (response.name, response.kind):
            return evaluation
    raise KeyError(response.name)


def _without_items(rows: Sequence[Row], responses: Sequence[Response]) -> Floats | None:
    """See `StudyData.without_items`; None where no response was kept by item in every cell."""
    found: Floats = np.full((ITEM_GROUPS, len(rows), len(responses)), np.nan)
    for column, response in enumerate(responses):
        kept = [_evaluation(row, response) for row in rows]
        if any(e.items is None for e in kept) or len({(e.n, e.weights) for e in kept}) > 1:
            continue
        n, weights = kept[0].n, kept[0].weights
        values = np.stack([unpack(e.items, n) for e in kept if e.items is not None])
        for group, left in enumerate(np.array_split(np.arange(n), min(n, ITEM_GROUPS))):
            if len(left) < n:
                inside = np.delete(np.arange(n), left)
                counts = None if weights is None else np.asarray(weights)[inside]
                found[group, :, column] = np.average(values[:, inside], axis=1, weights=counts)
    return None if np.isnan(found).all() else found
