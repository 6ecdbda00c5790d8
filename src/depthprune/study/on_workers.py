"""A study's cells on the workers of a cluster.

What shares a draw and an objective stands together on one worker, with one evaluator; everything is
drawn here, once, and travels as tokens. Rows are written as they come, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from depthprune.calibration import Calibration
from depthprune.engine.cluster import Cluster
from depthprune.engine.facts import Alike, Facts
from depthprune.engine.memo import RemoteMemo
from depthprune.engine.pool import MOST_DEATHS, Lost, Pool
from depthprune.errors import EvaluationError
from depthprune.evaluator import Memo
from depthprune.models.loading import Model
from depthprune.study.evaluation import EvaluationSuite, evaluators
from depthprune.study.grid import Cell
from depthprune.study.table import Row

Run = Callable[[Model, EvaluationSuite, Calibration, Sequence[Cell], "Memo | None"], list[Row]]


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
        run: Runs cells that share a draw and an objective.
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

    def rows(self, drawn: Calibration, cells: Sequence[Cell]) -> list[Row]:
        """Run cells; what was computed is in the memo before they are answered."""
        rows = self._run(self._model, self._suite, drawn, cells, self._memo)
        if self._memo is not None:
            self._memo.flush()
        return rows


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


def rows_of(
    cluster: Cluster,
    factory: StudyFactory,
    model: Model,
    drawn: Mapping[str, Calibration],
    units: Sequence[Unit],
    failed: Callable[[Cell, Model, Calibration, EvaluationError], Row],
) -> Iterator[Row]:
    """Run units on workers.

    Args:
        cluster: Where.
        factory: Makes a worker.
        model: The one that this process has, which theirs must be.
        drawn: The calibrations, by name.
        units: What is run.
        failed: Makes the row of a cell that was given up.
    """
    with Pool(cluster, factory, Alike(Facts.of(model))) as pool:
        shipped = {name: pool.share(name, as_tokens(each)) for name, each in drawn.items()}
        work = [(shipped[unit.drawn], unit.cells) for unit in units]
        for place, answer in pool.run("rows", work):
            unit = units[place]
            if isinstance(answer, Lost):
                error = EvaluationError(f"{MOST_DEATHS} workers died over it: {answer.reason}")
                yield from (failed(cell, model, drawn[unit.drawn], error) for cell in unit.cells)
            else:
                yield from answer
