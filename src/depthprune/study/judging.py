"""What a judgement makes of a line of the table, and how a study's workers come to judgements.

They judge every set once, those of one search together, by whoever is free. Cells that chose one
set wait for the same judgement, and each is written as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from depthprune.engine.pool import MOST_DEATHS, Lost
from depthprune.errors import DepthpruneError, EvaluationError
from depthprune.evaluator import RemovedSet
from depthprune.study.evaluation import EvaluationSuite, Part
from depthprune.study.jsonl import only_line
from depthprune.study.table import DenseRow, Evaluation, Line, Row

Answer: TypeAlias = Evaluation | DepthpruneError
"""What a set is worth on one text, or why that cannot be said."""
Judged: TypeAlias = tuple[Evaluation, ...] | DepthpruneError
Finish: TypeAlias = Callable[[Judged], Line]
"""Makes the line of a table of how a set was judged."""


class Judging:
    """Sets that workers judge, and the lines that wait for it.

    Args:
        parts: What each is judged on.
        work: What the workers do; a set's parts are added to it, once.
    """

    def __init__(self, parts: Sequence[Part], work: list[tuple[Any, ...]]) -> None:
        self._parts = parts
        self._work = work
        self._pieces: dict[int, tuple[tuple[RemovedSet, ...], Part]] = {}
        self._found: dict[RemovedSet, dict[Part, Answer]] = {}
        self._waiting: dict[RemovedSet, list[Finish]] = {}

    def ask(self, wanted: Sequence[tuple[RemovedSet, Finish]]) -> Iterator[Line]:
        """Have sets judged, each text by one worker, since they share their way through the model.

        Lines of sets that were judged before come now, the others from `take`.
        """
        new = tuple(sorted({removed for removed, _ in wanted} - self._found.keys()))
        self._found.update((removed, {}) for removed in new)
        for part in self._parts if new else ():
            self._pieces[len(self._work)] = new, part
            self._work.append(("judge", part, new))
        for removed, finish in wanted:
            self._waiting.setdefault(removed, []).append(finish)
        for removed in dict.fromkeys(removed for removed, _ in wanted):
            yield from self._finished(removed)

    def take(self, piece: int, answers: Sequence[Answer] | Lost) -> Iterator[Line]:
        """Take what a worker answered, and give the lines that waited for nothing else."""
        sets, part = self._pieces.pop(piece)
        each = [died(answers)] * len(sets) if isinstance(answers, Lost) else answers
        for removed, answer in zip(sets, each, strict=True):
            self._found[removed][part] = answer
            yield from self._finished(removed)

    def _finished(self, removed: RemovedSet) -> Iterator[Line]:
        found = self._found[removed]
        if len(found) == len(self._parts):
            judged = _all_of([found[part] for part in self._parts])
            for finish in self._waiting.pop(removed, ()):
                yield finish(judged)


def _all_of(found: Sequence[Answer]) -> Judged:
    """All that a set was judged on, or, as in one process, the first that could not be."""
    evaluations = []
    for each in found:
        if isinstance(each, DepthpruneError):
            return each
        evaluations.append(each)
    return tuple(evaluations)


def judged_by(suite: EvaluationSuite, removed: RemovedSet) -> Judged:
    """How this process judges a set."""
    try:
        return suite.judge(removed)
    except DepthpruneError as error:
        return error


def judged_row(row: Row, judged: Judged) -> Row:
    """The row of a cell with what its set is worth, or with why that cannot be said."""
    if isinstance(judged, DepthpruneError):
        facts = {name: getattr(row, name) for name in _FACTS}
        return Row(**facts, error=only_line(judged))
    return row.model_copy(update={"evaluations": judged})


_FACTS = ("model", "blocks", "k", "calibration", "objective", "search", "draw", "search_seed")
"""Of a row, what is known whether or not its cell ran."""


def dense_row(name: str, blocks: int, judged: Judged) -> DenseRow:
    """What the whole model is worth, beside which every set is read."""
    if isinstance(judged, DepthpruneError):
        return DenseRow(model=name, blocks=blocks, error=only_line(judged))
    return DenseRow(model=name, blocks=blocks, evaluations=judged)


def died(lost: Lost) -> EvaluationError:
    """What is said of work that was given up."""
    return EvaluationError(f"{MOST_DEATHS} workers died over it: {lost.reason}")
