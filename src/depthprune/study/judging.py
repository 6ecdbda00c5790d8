"""Judging on a study's workers: every set once, those of one search together, by whoever is free.

Cells that chose one set wait for the same judgement, and each is written as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from depthprune.engine.pool import MOST_DEATHS, Lost
from depthprune.errors import DepthpruneError, EvaluationError
from depthprune.evaluator import RemovedSet
from depthprune.study.evaluation import EvaluationSuite, Part
from depthprune.study.table import Evaluation, Line

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


def died(lost: Lost) -> EvaluationError:
    """What is said of work that was given up."""
    return EvaluationError(f"{MOST_DEATHS} workers died over it: {lost.reason}")
