"""Running a search on an evaluator: `dp.search`.

The driver is between the two: it refuses what cannot be searched before anything is paid for, runs
the search (see `run`), and sees that the score of the result is exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from depthprune.errors import UsageError
from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.search.budget import Budget, parse_budget
from depthprune.search.protocol import Search, Space
from depthprune.search.registry import SEARCHES, least_evaluations, make_search
from depthprune.search.run import Run, Scorer, TracePoint

__all__ = ["SEARCHES", "Result", "Scorer", "TracePoint", "check_search", "make_space", "search"]


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
    run = Run(algorithm, evaluator, space, allowed, enough)
    removed = run.to_the_end(random.Random(seed))
    # The result's own score is the caller's, not the search's: counts stay comparable.
    cost = run.cost
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
