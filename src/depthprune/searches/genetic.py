"""Genetic: a population of sets that are crossed and mutated, started from the prior."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import random_swap, ranked
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import (
    distinct,
    draw,
    log_weights,
    lowest,
    single_losses,
)

_TRIES = 20


@dataclass(frozen=True)
class Genetic(Method):
    """A prior-guided genetic algorithm over sets of size k.

    The first population is one-shot's set and draws with weight exp(−z(s_i)/τ). The elite goes on
    as it is. The rest are children of two parents from the better half: what both parents remove
    stays removed, the rest is drawn from what either removes, and some children have one block
    swapped. A child that was scored before is mutated until it is new.

    Source: arXiv 2604.24938, search 4, with its sizes; how parents are chosen and children repaired
    it leaves open.

    Attributes:
        population: Sets in each generation.
        generations: How many follow the first population.
        elitism: Share of a population that goes on as it is.
        mutation: Chance that a child has one block swapped.
        temperature: τ of the prior.
    """

    population: Annotated[int, Field(ge=4)] = 16
    generations: Annotated[int, Field(ge=0)] = 10
    elitism: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.2
    mutation: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.15
    temperature: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)] = 1.0

    method: ClassVar[str] = "genetic"
    summary: ClassVar[str] = (
        "crossing and mutating a population of sets; population=, generations=, elitism=, "
        "mutation=, temperature="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        return len(space.free) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        prior = yield from single_losses(space)
        weights = log_weights(prior, self.temperature)
        population = [lowest(space, prior)]
        population += distinct(lambda: draw(space, weights, rng), self.population - 1, population)
        seen = set(population)
        elite = min(max(1, round(self.elitism * self.population)), self.population - 1)
        for generation in range(self.generations + 1):
            last = generation == self.generations
            keep = 1 if last else min(len(population), max(elite, self.population // 2))
            sets = tuple(population)
            best = ranked(sets, (yield Ask(sets, keep=keep)))[:keep]
            if last:
                break
            children: list[RemovedSet] = []
            for _ in range(self.population - elite):
                child = self._child(space, best, seen, rng)
                if child is not None:
                    seen.add(child)
                    children.append(child)
            if not children:
                # A race ranks those it keeps by estimates: the best is asked for on its own.
                best = ranked(best, (yield Ask(tuple(best), keep=1)))
                break
            population = [*best[:elite], *children]
        return best[0]

    def _child(
        self, space: Space, parents: list[RemovedSet], seen: set[RemovedSet], rng: random.Random
    ) -> RemovedSet | None:
        """A new set; None where chance finds none."""
        a, b = rng.sample(parents, 2) if len(parents) > 1 else (parents[0], parents[0])
        shared = sorted({*a} & {*b})
        either = sorted({*a} ^ {*b})
        child = tuple(sorted([*shared, *rng.sample(either, space.k - len(shared))]))
        if rng.random() < self.mutation:
            child = random_swap(space, child, rng)
        for _ in range(_TRIES):
            if child not in seen and space.allows(child):
                return child
            child = random_swap(space, child, rng)
        return None
