"""Running a search on an evaluator: `dp.search`.

The driver is between the two: it refuses what cannot be searched before anything is paid for, runs
the search (see `run`), and sees that the score of the result is exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from depthprune.bounds import whole
from depthprune.errors import UsageError
from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.searches.budget import Budget, parse_budget
from depthprune.searches.common.moves import grown, with_block
from depthprune.searches.common.protocol import (
    DeadEndError,
    Refusal,
    Search,
    Space,
    nothing_refused,
)
from depthprune.searches.registry import (
    SEARCHES,
    least_evaluations,
    make_search,
)
from depthprune.searches.session import (
    Run,
    Scorer,
    TracePoint,
)

__all__ = [
    "SEARCHES",
    "Result",
    "Scorer",
    "TracePoint",
    "check_search",
    "make_space",
    "most_removable",
    "search",
]


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
    refusal: Refusal | None = None,
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
        refusal: Says why the model without a set could not be saved, or None; by default what the
            evaluator's own `refusal` says, if it has one.

    Returns:
        The set, its exact score, the path, trace and cost.

    Raises:
        UsageError: If `k` or `protect` do not fit the model, the search is unknown or cannot search
            there, or the budget is below what it needs to start.
        EvaluationError: If no set of an ask has a finite loss, the budget was spent before there
            was a set of size k, or the search breaks its word.
    """
    algorithm = make_search(name)
    k, seed = whole("-k", k), whole("--seed", seed)
    protect = [whole("--protect", block) for block in protect]
    allowed = parse_budget(budget) if isinstance(budget, str) else budget
    if refusal is None:
        refusal = getattr(evaluator, "refusal", nothing_refused)
    space = make_space(evaluator.blocks, k, protect, evaluator.windows, refusal)
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


def make_space(
    blocks: int,
    k: int,
    protect: Sequence[int] = (),
    windows: int = 1,
    refusal: Refusal = nothing_refused,
) -> Space:
    """What may be removed, checked.

    A block that may not go alone is not free.

    Raises:
        UsageError: If `k` is not between 1 and the blocks that may go, a protected block does not
            exist, or no `k` blocks may go together.
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
    space = Space(blocks, k, tuple(b for b in free if refusal((b,)) is None), windows, refusal)
    _check_together(space, free)
    return space


def most_removable(blocks: int, protect: Sequence[int], refusal: Refusal) -> int:
    """How many blocks may go together, found by adding one after the other.

    Args:
        blocks: Number of the model's blocks.
        protect: Blocks that must stay.
        refusal: See `search`.
    """
    free = [b for b in range(blocks) if b not in protect and refusal((b,)) is None]
    space = Space(blocks, min(len(free), blocks - 1), tuple(free), refusal=refusal)
    return max(len(_chain(space, order)) for order in (free, free[::-1]))


def _chain(space: Space, order: Sequence[int]) -> RemovedSet:
    longest: RemovedSet = ()
    with suppress(DeadEndError):
        for removed in grown(space, order):
            longest = removed
    return longest


def _check_together(space: Space, unprotected: Sequence[int]) -> None:
    """Refuse a `k` of which there is no set that may go."""
    orders = (space.free, space.free[::-1])
    longest = max((_chain(space, order) for order in orders), key=len)
    if len(longest) == space.k:
        return
    left = [b for b in unprotected if b not in longest]
    further = (with_block(longest, b) if b in space.free else (b,) for b in left)
    why = next(filter(None, map(space.refusal, further)))
    raise UsageError(
        f"-k {space.k}: at most {len(longest)} of {space.blocks} blocks can go together ({why}); "
        "lower -k, or protect fewer"
    )


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
