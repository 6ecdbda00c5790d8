"""One search under way: what it asks is checked, paid for and answered.

The run keeps the trace and the path, and stops a search where its budget is spent. A search that
breaks its word is stopped by name.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from depthprune.errors import DepthpruneError, EvaluationError, failure
from depthprune.evaluator import Cost, RemovedSet, Score, unscored
from depthprune.searches.budget import Budget
from depthprune.searches.common.protocol import (
    Ask,
    ChosenSize,
    DeadEndError,
    Measure,
    Plan,
    Search,
    Space,
)


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

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Scores by which the `keep` best of some sets come first, in the order given.

        Args:
            removed: The sets.
            keep: How many are wanted.
            earlier: What was answered before, which may tell how much windows differ.
        """

    def measure(self, name: str) -> NDArray[Any]:
        """A measurement of the dense model: see `Measure`."""


@dataclass(frozen=True)
class TracePoint:
    """The best set of size k (or the largest so far) against what was spent."""

    cost: Cost
    removed: RemovedSet
    loss: float


class _Spent(Exception):
    """The budget is spent."""


class Run:
    """One search under way.

    Args:
        algorithm: The search.
        evaluator: What scores removed sets.
        space: What may be removed.
        budget: What may be spent.
        enough: Called with each size's set of a search that grows; True ends it there.

    Attributes:
        path: For a search that grows its sets, the chosen set at each size from 1.
        trace: Best so far against cost, a point an ask.
        not_finite: Sets whose loss was NaN or infinite.
        stopped: Whether the budget ended it.
    """

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
        self._before = evaluator.cost
        self._began = time.monotonic()
        self.path: list[RemovedSet] = []
        self.trace: list[TracePoint] = []
        self.not_finite: set[RemovedSet] = set()
        self.stopped = False
        self._best: _Best | None = None
        self._known: dict[RemovedSet, float] = {}
        self._compared: Sequence[Score] = ()

    @property
    def cost(self) -> Cost:
        """What the search has spent so far."""
        return self.evaluator.cost - self._before

    def to_the_end(self, rng: random.Random) -> RemovedSet:
        """Run the search with its source of chance, and return the set it chose."""
        plan = self._guarded(lambda: self.algorithm.plan(self.space, rng))
        try:
            return self._follow(plan)
        except _Spent:
            self.stopped = True
            return self._best_so_far()
        except DeadEndError:
            # Where any size will do, the largest that was reached is an answer.
            if self.enough is None or not self.path:
                raise
            return self.path[-1]

    def _follow(self, plan: Plan) -> RemovedSet:
        answer: Any = None
        while True:
            try:
                event = self._guarded(lambda: plan.send(answer))  # noqa: B023 - called at once
            except StopIteration as stop:
                return self._savable(self._checked(stop.value, final=True))
            if isinstance(event, ChosenSize):
                self.path.append(self._savable(self._checked(event.removed)))
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
            raise EvaluationError(failure(f"search {self.algorithm.name!r}", error)) from error

    def _scores(self, ask: Ask) -> list[Score]:
        self._check_numbers(ask)
        sets = [self._checked(s) if s else () for s in ask.sets]
        if len(set(sets)) != len(sets):
            raise EvaluationError(f"search {self.algorithm.name!r} asked for one set twice")
        # A search from elsewhere may know nothing of refusals; it knows infinite losses.
        answers = {s: unscored(s) for s in sets if s and not self.space.allows(s)}
        wanted = [s for s in sets if s not in answers]
        affordable = self._affordable(wanted, ask.windows) if wanted else []
        if affordable:
            scores = self._ask(affordable, ask)
            self._note(scores, ask)
            answers |= zip(affordable, scores, strict=True)
        if len(affordable) < len(wanted):
            raise _Spent
        return [answers[s] for s in sets]

    def _check_numbers(self, ask: Ask) -> None:
        for name, value, most in (
            ("keep", ask.keep, math.inf),
            ("windows", ask.windows, self.space.windows),
        ):
            if value is None and name == "windows":
                continue
            if type(value) is not int or not 1 <= value <= most:
                limit = "on" if most == math.inf else f"to {most}"
                raise EvaluationError(
                    f"search {self.algorithm.name!r} asked with {name}={value!r}; expected a whole "
                    f"number from 1 {limit}; repair it, or take another search"
                )

    def _ask(self, sets: Sequence[RemovedSet], ask: Ask) -> list[Score]:
        if ask.windows is not None:
            return self.evaluator.score(sets, windows=ask.windows)
        self._compared = self.evaluator.compare(sets, min(ask.keep, len(sets)), self._compared)
        return self._compared

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
            best = self._best.score
            self.trace.append(TracePoint(self.cost, best.removed, best.loss))

    def _check_budget(self) -> None:
        seconds = time.monotonic() - self._began
        if self.budget is not None and self.budget.spent(self.cost, seconds):
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
        left = self.budget.evaluations - self.cost.evaluations
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

    def _savable(self, removed: RemovedSet) -> RemovedSet:
        why = self.space.refusal(removed)
        if why is not None:
            raise EvaluationError(
                f"search {self.algorithm.name!r} chose {removed!r}, without which no model can be "
                f"saved ({why}); take another search"
            )
        return removed


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
