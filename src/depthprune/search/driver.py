"""Running a search on an evaluator: `dp.search`.

The driver is between the two: it checks what a search asks, keeps the trace and the path, stops it
where its budget is spent, and sees that the score of the result is exact. A search that breaks its
word is stopped by name.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from depthprune.errors import DepthpruneError, EvaluationError, UsageError, first_line
from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.search.budget import Budget, parse_budget
from depthprune.search.protocol import Ask, Grown, Measure, Plan, Search, Space
from depthprune.search.registry import SEARCHES, least_evaluations, make_search

__all__ = ["SEARCHES", "Result", "Scorer", "TracePoint", "check_search", "make_space", "search"]


class Scorer(Protocol):
    """What the driver needs of an evaluator."""

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""

    @property
    def windows(self) -> int:
        """Number of the calibration's windows."""

    @property
    def cost(self) -> Cost:
        """What has been spent so far."""

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """Exact scores of removed sets, in the order given, on the first `windows` windows."""

    def compare(self, removed: Iterable[Sequence[int]], keep: int) -> list[Score]:
        """Scores by which the `keep` best of some sets come first, in the order given."""

    def measure(self, name: str) -> NDArray[Any]:
        """A measurement of the dense model: see `Measure`."""


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
        search: Name of the search, with the parameters that are not the defaults.
        seed: Its seed.
        k: How many blocks were to go.
        protect: Blocks that had to stay.
        budget: What it was allowed to spend.
        stopped: Whether it was stopped because that was spent; the set is then its best so far.
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
    budget: Budget | None = None
    stopped: bool = False


def search(
    name: str | Search,
    evaluator: Scorer,
    *,
    k: int,
    seed: int = 0,
    protect: Sequence[int] = (),
    budget: Budget | str | None = None,
    enough: Callable[[RemovedSet], bool] | None = None,
) -> Result:
    """Find which `k` blocks can go.

    Args:
        name: Of a search, with parameters as in `beam:width=8`, or a search itself.
        evaluator: What scores removed sets.
        k: How many blocks go.
        seed: Of the search's own chance; the calibration's draw has another.
        protect: Blocks that stay.
        budget: What it may spend, such as `Budget(evaluations=200)` or `"10min"`; when that is
            spent, its best set of size k so far is the result.
        enough: For a search that grows its sets: called with each size's set; True ends it there.

    Returns:
        The set, its exact score, the path, trace and cost.

    Raises:
        UsageError: If `k` or `protect` do not fit the model, the search is unknown or cannot search
            there, or the budget is below what it needs to start.
        EvaluationError: If no set of an ask has a finite loss, the budget was spent before there
            was a set of size k, or the search breaks its word.
    """
    algorithm = make_search(name)
    allowed = parse_budget(budget) if isinstance(budget, str) else budget
    space = make_space(evaluator.blocks, k, protect, evaluator.windows)
    # A rule that ends the search at a smaller size may be content with what a set of k is not.
    check_search(algorithm, space, allowed if enough is None else None)
    run = _Run(algorithm, evaluator, space, allowed, enough)
    removed = run.to_the_end(random.Random(seed))
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
        budget=allowed,
        stopped=run.stopped,
    )


def make_space(blocks: int, k: int, protect: Sequence[int] = (), windows: int = 1) -> Space:
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
    return Space(blocks, k, free, windows)


def check_search(algorithm: Search, space: Space, budget: Budget | None = None) -> None:
    """Refuse before anything is paid for what would be refused, or come to nothing, later.

    Raises:
        UsageError: If the search cannot search this space, or not within the budget.
    """
    least = least_evaluations(algorithm, space)
    if budget is not None and budget.evaluations is not None and budget.evaluations < least:
        raise UsageError(
            f"--budget: {algorithm.name} needs {least} evaluations to have a first set of "
            f"{space.k} blocks, got {budget.evaluations:g}; raise it, or take another search"
        )


class _Spent(Exception):
    """The budget is spent."""


class _Run:
    """One search under way."""

    def __init__(
        self,
        algorithm: Search,
        evaluator: Scorer,
        space: Space,
        budget: Budget | None,
        enough: Callable[[RemovedSet], bool] | None,
    ) -> None:
        self.algorithm = algorithm
        self.evaluator = evaluator
        self.space = space
        self.budget = budget
        self.enough = enough
        self.before = evaluator.cost
        self.began = time.monotonic()
        self.path: list[RemovedSet] = []
        self.trace: list[TracePoint] = []
        self.not_finite: set[RemovedSet] = set()
        self.stopped = False
        self._best: _Best | None = None
        self._known: dict[RemovedSet, float] = {}

    def to_the_end(self, rng: random.Random) -> RemovedSet:
        plan = self._guarded(lambda: self.algorithm.plan(self.space, rng))
        try:
            return self._follow(plan)
        except _Spent:
            self.stopped = True
            return self._best_so_far()

    def _follow(self, plan: Plan) -> RemovedSet:
        answer: Any = None
        while True:
            try:
                event = self._guarded(lambda: plan.send(answer))  # noqa: B023 - called at once
            except StopIteration as stop:
                return self._checked(stop.value, final=True)
            if isinstance(event, Grown):
                self.path.append(self._checked(event.removed))
                answer = self.enough(event.removed) if self.enough else False
            elif isinstance(event, Ask) and event.sets:
                answer = self._scores(event)
            elif isinstance(event, Measure):
                self._check_budget()
                answer = self.evaluator.measure(event.name)
            else:
                raise EvaluationError(
                    f"search {self.algorithm.name!r} gave {event!r}, which asks for nothing"
                )

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """Run the search's own code; what it raises is one line that names it."""
        try:
            return step()
        except (DepthpruneError, StopIteration):
            raise
        except Exception as error:
            raise EvaluationError(
                f"search {self.algorithm.name!r} failed ({type(error).__name__}: "
                f"{first_line(error)}); --debug shows where"
            ) from error

    def _scores(self, ask: Ask) -> list[Score]:
        sets = [self._checked(s) if s else () for s in ask.sets]
        if len(set(sets)) != len(sets):
            raise EvaluationError(f"search {self.algorithm.name!r} asked for one set twice")
        affordable = self._affordable(sets, ask.windows)
        scores = self._ask(affordable, ask)
        self._note(scores, ask)
        if len(affordable) < len(sets):
            raise _Spent
        return scores

    def _ask(self, sets: Sequence[RemovedSet], ask: Ask) -> list[Score]:
        if ask.windows is not None:
            return self.evaluator.score(sets, windows=ask.windows)
        return self.evaluator.compare(sets, min(ask.keep, len(sets)))

    def _note(self, scores: Sequence[Score], ask: Ask) -> None:
        """Remember what was scored, and how the best stands."""
        candidates = [score for score in scores if score.removed]
        for score in scores:
            share = min(1.0, score.windows / self.space.windows)
            self._known[score.removed] = max(share, self._known.get(score.removed, 0.0))
            if not score.removed:
                score.require_finite()
        self.not_finite.update(s.removed for s in candidates if not s.finite)
        finite = [score for score in candidates if score.finite]
        # Where some can be computed a search goes round the rest; where none can, it is broken.
        if not finite and self._best is None and len(candidates) > 1:
            raise EvaluationError(
                f"{self.algorithm.name}: the loss of all {len(candidates)} candidates is NaN or "
                "infinite; compute in another --dtype (float32), or check the weights"
            )
        seen = [_Best(score, ask.windows or math.inf) for score in finite]
        self._best = min([*seen, *([self._best] if self._best else [])], default=None)
        if self._best is not None:
            spent = self.evaluator.cost - self.before
            best = self._best.score
            self.trace.append(TracePoint(spent, best.removed, best.loss))

    def _check_budget(self) -> None:
        spent = self.evaluator.cost - self.before
        if self.budget is not None and self.budget.spent(spent, time.monotonic() - self.began):
            raise _Spent

    def _affordable(self, sets: list[RemovedSet], windows: int | None) -> list[RemovedSet]:
        """As many of an ask's sets, in order, as the budget allows."""
        if self.budget is None:
            return sets
        share = 1.0 if windows is None else windows / self.space.windows
        prices = [max(0.0, share - self._known.get(s, 0.0)) if s else 0.0 for s in sets]
        if any(prices):
            self._check_budget()
        if self.budget.evaluations is None:
            return sets
        left = self.budget.evaluations - (self.evaluator.cost - self.before).evaluations
        taken = []
        for removed, price in zip(sets, prices, strict=True):
            left -= price
            if left < -1e-9:
                break
            taken.append(removed)
        if not taken:
            raise _Spent
        return taken

    def _best_so_far(self) -> RemovedSet:
        best = self._best.score.removed if self._best else ()
        if self.enough is not None and self.path:
            return self.path[-1]
        if len(best) < self.space.k and self.enough is None:
            raise EvaluationError(
                f"--budget: {self.budget} was spent before {self.algorithm.name} had a set of "
                f"{self.space.k} blocks; raise it, or take another search"
            )
        return best

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


@dataclass(frozen=True)
class _Best:
    """A score as it ranks among all of a run.

    The largest set counts, then what was scored on the most windows: a low loss on a few of them is
    luck more often than merit.
    """

    score: Score
    windows: float

    def __lt__(self, other: _Best) -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[int, float, float, RemovedSet]:
        return -len(self.score.removed), -self.windows, self.score.loss, self.score.removed
