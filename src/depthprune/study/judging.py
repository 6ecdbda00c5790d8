"""Judging on a study's workers: every set once, each text by whoever is free.

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
        self._pieces: dict[int, tuple[RemovedSet, Part]] = {}
        self._found: dict[RemovedSet, dict[Part, Evaluation | DepthpruneError]] = {}
        self._waiting: dict[RemovedSet, list[Finish]] = {}

    def ask(self, removed: RemovedSet, finish: Finish) -> Iterator[Line]:
        """Have a set judged; its line comes now if it was judged before, else from `take`."""
        if removed not in self._found:
            self._found[removed] = {}
            for part in self._parts:
                self._pieces[len(self._work)] = removed, part
                self._work.append(("judge", part, removed))
        self._waiting.setdefault(removed, []).append(finish)
        return self._finished(removed)

    def take(self, piece: int, answer: Evaluation | DepthpruneError | Lost) -> Iterator[Line]:
        """Take what a worker answered, and give the lines that waited for nothing else."""
        removed, part = self._pieces.pop(piece)
        self._found[removed][part] = died(answer) if isinstance(answer, Lost) else answer
        return self._finished(removed)

    def _finished(self, removed: RemovedSet) -> Iterator[Line]:
        found = self._found[removed]
        if len(found) == len(self._parts):
            judged = _all_of([found[part] for part in self._parts])
            for finish in self._waiting.pop(removed, ()):
                yield finish(judged)


def _all_of(found: Sequence[Evaluation | DepthpruneError]) -> Judged:
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
