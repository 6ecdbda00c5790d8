"""A study's cells on the workers of a cluster.

What shares a draw and an objective is searched on one worker, with one evaluator. The sets that
were found there are judged together on each text, by whoever is free, and none twice. Everything is
drawn here, once, and travels as tokens. Rows are written as they come, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from depthprune.calibration import Calibration
from depthprune.engine.cluster import Cluster
from depthprune.engine.facts import Alike, Facts
from depthprune.engine.memo import RemoteMemo
from depthprune.engine.pool import Lost, Pool
from depthprune.errors import DepthpruneError, EvaluationError
from depthprune.evaluator import Memo, RemovedSet
from depthprune.models.loading import Model
from depthprune.study.evaluation import Part, evaluators, parts_of
from depthprune.study.grid import Cell
from depthprune.study.judging import Answer, Finish, Judging, died, judged_row
from depthprune.study.table import Line, Row

Run: TypeAlias = Callable[[Model, Calibration, Sequence[Cell], "Memo | None"], list[Row]]


@dataclass(frozen=True)
class Unit:
    """Cells that share a draw and an objective.

    Attributes:
        drawn: Names what they are calibrated on.
        cells: The cells.
    """

    drawn: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class StudyFactory:
    """Makes a worker of a study.

    Attributes:
        load: Loads the model.
        run: Runs cells that share a draw and an objective, and judges nothing.
        texts: What perplexity is measured on.
        items: What accuracy is measured on.
        homes: For each of them the calibration of its domain.
        by: How likelihoods of options are compared.
        memo: The process that writes the memo, if there is one.
    """

    load: Callable[[], Model]
    run: Run
    texts: Mapping[str, Calibration]
    items: Mapping[str, Calibration]
    homes: Mapping[str, str]
    by: str
    memo: Any

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that a set is judged on, in the order of a row."""
        return parts_of(self.texts, self.items)

    def __call__(self) -> StudyWorker:
        """The worker."""
        return StudyWorker(self)


class StudyWorker:
    """Holds a study's model, and what it is judged on.

    Args:
        made: What it is made of.
    """

    def __init__(self, made: StudyFactory) -> None:
        self._run = made.run
        self._memo = RemoteMemo(made.memo) if made.memo is not None else None
        self._model = made.load()
        self._suite = evaluators(
            self._model, made.texts, made.items, made.by, made.homes, self._memo
        )

    def facts(self) -> Facts:
        """What this worker is."""
        return Facts.of(self._model)

    def search(self, drawn: Calibration, cells: Sequence[Cell]) -> list[Row]:
        """Run cells; what was computed is in the memo before they are answered."""
        rows = self._run(self._model, drawn, cells, self._memo)
        self._flush()
        return rows

    def judge(self, part: Part, sets: Sequence[RemovedSet]) -> list[Answer]:
        """Judge sets on a text or on items; what cannot be judged is answered, not raised."""
        try:
            with suppress(DepthpruneError):  # which of them cannot be judged is told by itself
                self._suite.judge_ahead(sets, [part])
            return [self._judged(part, removed) for removed in sets]
        finally:
            self._flush()

    def _judged(self, part: Part, removed: RemovedSet) -> Answer:
        try:
            return self._suite.judge_on(part, removed)
        except DepthpruneError as error:
            return error

    def _flush(self) -> None:
        if self._memo is not None:
            self._memo.flush()


def as_tokens(calibration: Calibration) -> Calibration:
    """A calibration that can travel: its windows, without what they were drawn from."""
    return Calibration(
        tuple(
            replace(part, material=replace(part.material, pool=_Drawn()))
            for part in calibration.parts
        )
    )


class _Drawn:
    """Stands where a source's text was."""

    def draw(self, *_: object) -> Any:
        raise EvaluationError("a calibration that travelled cannot be drawn again")


def lines_of(
    cluster: Cluster,
    factory: StudyFactory,
    model: Model,
    drawn: Mapping[str, Calibration],
    units: Sequence[Unit],
    failed: Callable[[Cell, Model, Calibration, DepthpruneError], Row],
    dense: Finish | None,
) -> Iterator[Line]:
    """Run units on workers, and have what they chose judged there.

    Args:
        cluster: Where.
        factory: Makes a worker.
        model: The one that this process has, which theirs must be.
        drawn: The calibrations, by name.
        units: What is run.
        failed: Makes the row of a cell that failed.
        dense: Makes the line of the whole model; None where it is not wanted.
    """
    with Pool(cluster, factory, Alike(Facts.of(model))) as pool:
        shipped = {name: pool.share(name, as_tokens(each)) for name, each in drawn.items()}
        work: list[tuple[Any, ...]] = [("search", shipped[u.drawn], u.cells) for u in units]
        judging = Judging(factory.parts, work)
        if dense is not None:
            yield from judging.ask([((), dense)])
        for piece, answer in pool.run(work):
            if piece >= len(units):
                yield from judging.take(piece, answer)
                continue
            unit = units[piece]
            if isinstance(answer, Lost):
                error = died(answer)
                yield from (failed(cell, model, drawn[unit.drawn], error) for cell in unit.cells)
                continue
            yield from (row for row in answer if row.error is not None)
            ran = [row for row in answer if row.error is None]
            yield from judging.ask([(row.removed, partial(judged_row, row)) for row in ran])
