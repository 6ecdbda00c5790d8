"""Running a search on an evaluator: `dp.search`.

The driver is between the two: it checks what a search asks, keeps the trace and the path, and sees
that the score of the result is exact. A search that breaks its word is stopped by name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.plugins import Registry
from depthprune.search.greedy import Greedy
from depthprune.search.one_shot import OneShot
from depthprune.search.protocol import Ask, Grown, Plan, Search, Space

SEARCHES: Registry[Callable[[], Search]] = Registry(
    "search", "depthprune.searches", {"one-shot": OneShot, "greedy": Greedy}
)


class Scorer(Protocol):
    """What the driver needs of an evaluator."""

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""

    @property
    def cost(self) -> Cost:
        """What has been spent so far."""

    def score(self, removed: Iterable[Sequence[int]]) -> list[Score]:
        """Exact scores of removed sets, in the order given."""

    def compare(self, removed: Iterable[Sequence[int]], keep: int) -> list[Score]:
        """Scores by which the `keep` best of some sets come first, in the order given."""


@dataclass(frozen=True)
class TracePoint:
    """The best set of size k (or the largest so far) against what was spent."""

    cost: Cost
    removed: RemovedSet
    loss: float


@dataclass(frozen=True)
class Result:
    """What a search chose.

    Attributes:
        removed: The blocks to remove, sorted.
        score: The exact score of the model without them.
        path: For a search that grows its sets, the chosen set at each size from 1.
        trace: Best so far against cost, a point an ask.
        cost: What the search spent.
        not_finite: Sets whose loss was NaN or infinite; they rank last.
        search: Name of the search.
        seed: Its seed.
        k: How many blocks were to go.
        protect: Blocks that had to stay.
    """

    removed: RemovedSet
    score: Score
    path: tuple[RemovedSet, ...]
    trace: tuple[TracePoint, ...]
    cost: Cost
    not_finite: tuple[RemovedSet, ...]
    search: str
    seed: int
    k: int
    protect: tuple[int, ...]


def search(
    name: str | Search,
    evaluator: Scorer,
    *,
    k: int,
    seed: int = 0,
    protect: Sequence[int] = (),
    enough: Callable[[RemovedSet], bool] | None = None,
) -> Result:
    """Find which `k` blocks can go.

    Args:
        name: Of a search, or a search itself.
        evaluator: What scores removed sets.
        k: How many blocks go.
        seed: Of the search's own chance; the calibration's draw has another.
        protect: Blocks that stay.
        enough: For a search that grows its sets: called with each size's set; True ends it there.

    Returns:
        The set, its exact score, the path, trace and cost.

    Raises:
        UsageError: If `k` or `protect` do not fit the model, or the search is unknown.
        EvaluationError: If no set of the last ask has a finite loss, or the search breaks its
            word.
    """
    algorithm = SEARCHES.get(name)() if isinstance(name, str) else name
    space = make_space(evaluator.blocks, k, protect)
    run = _Run(algorithm, evaluator, space, enough)
    removed = run.to_the_end(algorithm.plan(space, random.Random(seed)))
    # The result's own score is the caller's, not the search's: counts stay comparable.
    cost = evaluator.cost - run.before
    score = evaluator.score([removed])[0].require_finite()
    return Result(
        removed=removed,
        score=score,
        path=tuple(run.path),
        trace=tuple(run.trace),
        cost=cost,
        not_finite=tuple(sorted(run.not_finite)),
        search=algorithm.name,
        seed=seed,
        k=k,
        protect=tuple(sorted(protect)),
    )


def make_space(blocks: int, k: int, protect: Sequence[int] = ()) -> Space:
    """What may be removed, checked.

    Raises:
        UsageError: If `k` is not between 1 and the blocks that may go, or a protected block does
            not exist.
    """
    outside = [b for b in protect if not 0 <= b < blocks]
    if outside:
        raise UsageError(
            f"--protect: expected blocks from 0 to {blocks - 1}, got {outside[0]}; "
            f"the model has {blocks}"
        )
    if not 1 <= k < blocks:
        raise UsageError(
            f"-k: expected 1 to {blocks - 1} (the model has {blocks} blocks and must keep one), "
            f"got {k}"
        )
    free = tuple(b for b in range(blocks) if b not in set(protect))
    if len(free) < k:
        raise UsageError(
            f"--protect: leaves {len(free)} of {blocks} blocks that may go, fewer than k = {k}; "
            "protect fewer, or lower -k"
        )
    return Space(blocks, k, free)


class _Run:
    """One search under way."""

    def __init__(
        self,
        algorithm: Search,
        evaluator: Scorer,
        space: Space,
        enough: Callable[[RemovedSet], bool] | None,
    ) -> None:
        self.algorithm = algorithm
        self.evaluator = evaluator
        self.space = space
        self.enough = enough
        self.before = evaluator.cost
        self.path: list[RemovedSet] = []
        self.trace: list[TracePoint] = []
        self.best: Score | None = None
        self.not_finite: set[RemovedSet] = set()

    def to_the_end(self, plan: Plan) -> RemovedSet:
        answer: list[Score] | bool | None = None
        while True:
            try:
                event = plan.send(answer)
            except StopIteration as stop:
                return self._checked(stop.value, final=True)
            if isinstance(event, Grown):
                self.path.append(self._checked(event.removed))
                answer = self.enough(event.removed) if self.enough else False
            elif isinstance(event, Ask) and event.sets:
                answer = self._scores(event)
            else:
                raise EvaluationError(
                    f"search {self.algorithm.name!r} gave {event!r}, which asks for nothing"
                )

    def _scores(self, ask: Ask) -> list[Score]:
        sets = [self._checked(s) for s in ask.sets]
        if len(set(sets)) != len(sets):
            raise EvaluationError(f"search {self.algorithm.name!r} asked for one set twice")
        scores = self.evaluator.compare(sets, ask.keep)
        self.not_finite.update(s.removed for s in scores if not s.finite)
        if not any(s.finite for s in scores):
            raise EvaluationError(
                f"{self.algorithm.name}: the loss of all {len(scores)} candidates is NaN or "
                "infinite; compute in another --dtype (float32), or check the weights"
            )
        seen = [*scores, *([self.best] if self.best else [])]
        self.best = min(seen, key=lambda s: (-len(s.removed), s.loss, s.removed))
        spent = self.evaluator.cost - self.before
        self.trace.append(TracePoint(spent, self.best.removed, self.best.loss))
        return scores

    def _checked(self, removed: object, *, final: bool = False) -> RemovedSet:
        free = set(self.space.free)
        right = (
            isinstance(removed, tuple)
            and 0 < len(removed) <= self.space.k
            and all(type(block) is int and block in free for block in removed)
            and list(removed) == sorted(set(removed))
        )
        if final and right and self.enough is None:
            right = len(removed) == self.space.k  # type: ignore[arg-type]
        if not right:
            raise EvaluationError(
                f"search {self.algorithm.name!r} gave {removed!r}, which is no sorted tuple of "
                f"{'' if final else 'at most '}{self.space.k} blocks that may go"
            )
        return removed  # type: ignore[return-value]
