"""CBO: a quadratic model of the loss from all pairs, solved exactly at size k."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar

from pydantic import Field

from depthprune.extras import require_extra
from depthprune.progress import warn
from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import ranked
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import (
    Prior,
    lowest,
    single_losses,
)

_SCALE = 10**7
"""Integer steps of the largest coefficient: the solver counts in whole numbers."""
_PENALTY = 4.0
_PATIENCE = 0.05
_MOST_WORK = 300.0
"""CP-SAT's deterministic time for all sets of a model together, about a second each unit."""


@dataclass(frozen=True)
class CBO(Method):
    """Constrained binary optimisation.

    With a_i = Δ({i}) and J_ij = Δ({i,j}) − a_i − a_j, minimise Σ a_i + Σ J_ij over the sets of
    exactly k blocks, and score the best few by the loss itself. Δ is the increase over the dense
    model; at a fixed size its loss adds the same to every set, so it is left out. It is exact where
    no three blocks interact.

    OR-tools' CP-SAT solves it to optimality, in integers: coefficients are rounded to 10⁻⁷ of the
    largest. The second best is the best once the first is excluded by a cut, and so on. Its work is
    bounded, in a measure that is the same on every machine; where that ends it, the best so far is
    taken, which is said.

    Source: arXiv 2602.00161; arXiv 2604.24938, search 6.

    Attributes:
        candidates: How many of the best sets of the model are scored.
    """

    candidates: Annotated[int, Field(ge=1)] = 10

    method: ClassVar[str] = "cbo"
    summary: ClassVar[str] = (
        "the best sets of a quadratic model from all pairs; N(N+1)/2 + 10 evaluations; candidates="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        _solver()
        n = len(space.free)
        return n + 1 if space.k == 1 else n + math.comb(n, 2) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        _solver()
        single = yield from single_losses(space)
        pair: dict[tuple[int, int], float] = {}
        if space.k > 1:
            pairs = tuple(combinations(space.free, 2))
            # A pair that may not go counts as one whose loss could not be computed.
            pair = dict.fromkeys(pairs, math.inf)
            asked = tuple(p for p in pairs if space.allows(p))
            if asked:
                scores = yield Ask(asked, keep=len(asked))
                pair |= {p: score.loss for p, score in zip(asked, scores, strict=True)}
        linear, quadratic = coefficients(single, pair)
        found = minimisers(linear, quadratic, space.k, self.candidates, space.allows)
        sets = tuple(found or [lowest(space, single)])
        return ranked(sets, (yield Ask(sets, keep=1)))[0]


def coefficients(
    single: Prior, pair: Mapping[tuple[int, int], float]
) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """The quadratic model: f_i for each block, and f_ij − f_i − f_j for each pair.

    A loss that is not finite counts as far above the worst that is.
    """
    known = [loss for loss in (*single.values(), *pair.values()) if math.isfinite(loss)] or [0.0]
    worst = max(known) + _PENALTY * (max(known) - min(known) or 1.0)
    linear = {b: loss if math.isfinite(loss) else worst for b, loss in single.items()}
    quadratic = {
        (i, j): (loss if math.isfinite(loss) else worst) - linear[i] - linear[j]
        for (i, j), loss in pair.items()
    }
    return linear, quadratic


def minimisers(
    linear: Mapping[int, float],
    quadratic: Mapping[tuple[int, int], float],
    k: int,
    count: int,
    allows: Callable[[RemovedSet], bool] = lambda removed: True,
) -> list[RemovedSet]:
    """The sets of size k of lowest Σ linear + Σ quadratic, the best first.

    Args:
        linear: By block.
        quadratic: By pair of blocks, ascending; those left out are 0.
        k: Size.
        count: How many, or all there are.
        allows: Whether a set may go. The blocks of one that may not are narrowed to as few as are
            refused alone, and those are kept apart from then on.
    """
    (cp_model,) = _solver()
    model = cp_model.CpModel()
    taken = {b: model.new_bool_var(f"x{b}") for b in linear}
    both = {p: model.new_bool_var(f"y{p[0]},{p[1]}") for p in quadratic} if k > 1 else {}
    model.add(sum(taken.values()) == k)
    for (i, j), y in both.items():
        model.add_implication(y, taken[i])
        model.add_implication(y, taken[j])
        model.add(y >= taken[i] + taken[j] - 1)
    # Each block that is taken stands in k − 1 pairs: the relaxation is far tighter with it.
    for b, x in taken.items() if both else ():
        model.add(sum(y for p, y in both.items() if b in p) == (k - 1) * x)
    model.minimize(_objective(linear, quadratic, taken, both))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.linearization_level = 2
    solver.parameters.catch_sigint_signal = False
    found: list[RemovedSet] = []
    refused = False
    work = _MOST_WORK
    while len(found) < min(count, math.comb(len(linear), k)):
        solver.parameters.max_deterministic_time = max(work, 1e-6)
        status = _interruptible(solver, model)
        work -= solver.response_proto.deterministic_time
        if status == cp_model.INFEASIBLE and refused:
            break
        stopped = status in (cp_model.FEASIBLE, cp_model.UNKNOWN)
        if stopped:
            warn(
                "search cbo: its quadratic model took too much work to be solved to the end, and "
                "may have better sets than those found; remove fewer blocks, or take another search"
            )
        elif status != cp_model.OPTIMAL:
            raise RuntimeError("CP-SAT did not prove an optimum")
        if status == cp_model.UNKNOWN:
            break
        best = tuple(b for b, x in taken.items() if solver.value(x))
        if allows(best):
            found.append(best)
        else:
            best, refused = _narrowed(best, allows), True
        if stopped:
            break
        model.add(sum(taken[b] for b in best) <= len(best) - 1)
    return found


def _interruptible(solver: Any, model: Any) -> Any:
    """Solve beside this thread, which an interrupt reaches; the solver would take it for its own.

    It is asked every so often, since nothing else ends a wait on every system.
    """
    with ThreadPoolExecutor(1) as beside:
        solving = beside.submit(solver.solve, model)
        try:
            while not solving.done():
                wait([solving], _PATIENCE)
        except BaseException:
            while not solving.done():
                solver.stop_search()  # which it hears only once it has begun
                wait([solving], _PATIENCE)
            raise
        return solving.result()


def _narrowed(removed: RemovedSet, allows: Callable[[RemovedSet], bool]) -> RemovedSet:
    """A refused subset of a refused set, from which no block can be left out."""
    for block in removed:
        fewer = tuple(b for b in removed if b != block)
        if fewer and not allows(fewer):
            removed = fewer
    return removed


def _objective(
    linear: Mapping[int, float],
    quadratic: Mapping[tuple[int, int], float],
    taken: Mapping[int, Any],
    both: Mapping[tuple[int, int], Any],
) -> Any:
    """The quadratic model in integers.

    At a fixed size, Σ_i c over the blocks taken and Σ_ij c over their pairs are constants: both
    kinds of coefficients are centred first, which leaves more digits of what tells sets apart.
    """
    a = sum(linear.values()) / len(linear)
    j = sum(quadratic.values()) / len(quadratic) if both else 0.0
    centred = {b: value - a for b, value in linear.items()}
    crossed = {p: quadratic[p] - j for p in both}
    largest = max((abs(v) for v in (*centred.values(), *crossed.values())), default=0.0) or 1.0
    step = largest / _SCALE
    return sum(round(v / step) * taken[b] for b, v in centred.items()) + sum(
        round(v / step) * both[p] for p, v in crossed.items()
    )


def _solver() -> tuple[Any, ...]:
    return require_extra("search cbo", "search", "ortools.sat.python.cp_model")
