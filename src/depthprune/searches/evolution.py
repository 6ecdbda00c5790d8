"""Evolution: one parent, many mutants, most of them weeded out on a few windows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import (
    random_set,
    random_swap,
    ranked,
)
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import distinct

_GENERATIONS = 8
"""Where windows are so few that offspring on one of them are dear, there are fewer offspring, so
that at least about this many generations can be paid for."""


@dataclass(frozen=True)
class Evolution(Method):
    """EvoPress: (1+λ) evolution with selection in stages.

    A mutant has min(U[1,3], U[1,3]) blocks swapped. In each generation the mutants are scored on
    few windows; the best of them and the parent are scored on more, and the best of those is the
    next parent. The last parent is the answer.

    EvoPress runs k(N − k)/1.5 generations of 32 mutants on 2,048 tokens and three sets on 32,768,
    of 131,072 tokens in all: 5/6 · k(N − k) evaluations. So many are not exceeded here, however
    many windows there are: with fewer than 64 one window is a larger share, and the generations are
    fewer. EvoPress draws tokens anew for each generation; here they are the same windows, and what
    is known of a parent is not paid for again.

    Source: EvoPress (arXiv 2410.14649); arXiv 2604.24938 does not run it.

    Attributes:
        offspring: Mutants in each generation.
        survivors: How many of them are scored on more windows.
        few: Share of the windows for the first stage.
        many: Share of the windows for the second.
        generations: At most so many; 0 is k(N − k)/1.5.
    """

    offspring: Annotated[int, Field(ge=2)] = 32
    survivors: Annotated[int, Field(ge=1)] = 2
    few: Annotated[float, Field(ge=1e-9, le=1, allow_inf_nan=False)] = 1 / 64
    many: Annotated[float, Field(ge=1e-9, le=1, allow_inf_nan=False)] = 1 / 4
    generations: Annotated[int, Field(ge=0)] = 0

    method: ClassVar[str] = "evolution"
    summary: ClassVar[str] = (
        "EvoPress: mutants of one parent, selected in stages; offspring=, survivors=, few=, many=, "
        "generations="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        stages = self._stages(space)
        few, many = stages.few, stages.many
        first = distinct(lambda: random_set(space, rng), stages.first)
        parent = ranked(first, (yield Ask(tuple(first), keep=1, windows=few)))[0]
        stages.pay(first, few)
        for _ in range(stages.generations):
            if not stages.affordable:
                break
            mutants = self._offspring(space, parent, stages, rng)
            if not mutants:
                break
            keep = min(self.survivors, len(mutants))
            scores = yield Ask(tuple(mutants), keep=keep, windows=few)
            stages.pay(mutants, few)
            rivals = [parent, *ranked(mutants, scores)[:keep]]
            parent = ranked(rivals, (yield Ask(tuple(rivals), keep=1, windows=many)))[0]
            stages.pay(rivals, many)
        yield Ask((parent,), keep=1)
        return parent

    def _offspring(
        self, space: Space, parent: RemovedSet, stages: _Stages, rng: random.Random
    ) -> list[RemovedSet]:
        def mutant() -> RemovedSet:
            child = parent
            for _ in range(min(rng.randint(1, 3), rng.randint(1, 3))):
                child = random_swap(space, child, rng)
            return child

        return distinct(mutant, stages.offspring, stages.paid)

    def _stages(self, space: Space) -> _Stages:
        windows = space.windows
        swaps = space.k * (len(space.free) - space.k)
        few = max(1, min(windows, round(self.few * windows)))
        many = max(few, min(windows, round(self.many * windows)))
        # The final parent is scored on all windows.
        left = math.floor((5 / 6 * swaps - 1) * windows)
        second = (self.survivors + 1) * many
        return _Stages(
            few=few,
            many=many,
            second=second,
            generations=self.generations or round(swaps / 1.5),
            offspring=max(2, min(self.offspring, (left // _GENERATIONS - second) // few)),
            first=max(1, min(self.offspring, left // _GENERATIONS // few)),
            left=left,
        )


@dataclass
class _Stages:
    """How many sets are scored on how many windows, and what is left to spend, in windows."""

    few: int
    many: int
    second: int
    generations: int
    offspring: int
    first: int
    left: int
    paid: dict[RemovedSet, int] = field(default_factory=dict)

    @property
    def affordable(self) -> bool:
        """Whether one more generation can be paid for."""
        return self.left >= self.offspring * self.few + self.second

    def pay(self, sets: Iterable[RemovedSet], windows: int) -> None:
        """Note that sets were scored on so many windows."""
        for removed in sets:
            before = self.paid.get(removed, 0)
            self.left -= max(0, windows - before)
            self.paid[removed] = max(windows, before)
