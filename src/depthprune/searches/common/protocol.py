"""What a search is: something that asks for scores of removed sets and is told them.

A search is a generator. It yields an `Ask` and is sent the scores, in the order asked; it returns
the set it chose. One whose sets grow block by block also yields `ChosenSize` for each size, and
stops there if it is told that no more is wanted. One that ranks blocks by what they do to the
hidden states yields `Measure` and is sent the measurement. It sees numbers and nothing of models,
so that any of them runs on any landscape, planted ones included.

Some sets make no model that could be saved: a hybrid needs a block of attention, whichever it is.
The space knows them, and no search asks for one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from depthprune.errors import EvaluationError

RemovedSet: TypeAlias = tuple[int, ...]
Refusal: TypeAlias = Callable[[RemovedSet], "str | None"]
"""Says why a model without a set could not be saved; None where it could."""


def nothing_refused(removed: RemovedSet) -> str | None:
    """The refusal of a model that can be saved without any of its blocks."""
    return None


class DeadEndError(EvaluationError):
    """No block can be added to a set such that the model could still be saved."""


class Loss(Protocol):
    """What a search is told of a set; `depthprune.Score` is one."""

    @property
    def loss(self) -> float:
        """Lower is better; infinite where it could not be computed."""


@dataclass(frozen=True)
class Space:
    """What may be chosen from.

    Attributes:
        blocks: Number of the model's blocks.
        k: How many go.
        free: The blocks that may go, ascending.
        windows: Number of windows that a set is scored on.
        refusal: Why a set of those blocks may not go, though each of them alone may.
    """

    blocks: int
    k: int
    free: tuple[int, ...]
    windows: int = 1
    refusal: Refusal = nothing_refused

    def allows(self, removed: RemovedSet) -> bool:
        """Whether a sorted set of free blocks may go."""
        return self.refusal(removed) is None

    def allowed(self, sets: Iterable[RemovedSet]) -> list[RemovedSet]:
        """Those of some sets that may go."""
        return [removed for removed in sets if self.allows(removed)]


@dataclass(frozen=True)
class Ask:
    """Removed sets to be scored.

    A set that was asked for before may be among them: it is answered from what is known, and paid
    for once.

    Attributes:
        sets: Sorted sets of free blocks that the space allows, no two alike; `()` is the dense
            model.
        keep: How many of the best are wanted; the rest need only be known to be worse.
        windows: On how many windows, the first of a fixed random order; None for as many as it
            takes.
    """

    sets: tuple[RemovedSet, ...]
    keep: int
    windows: int | None = None


@dataclass(frozen=True)
class ChosenSize:
    """The chosen set at one size, on the way to `k`. The answer is True if that is enough."""

    removed: RemovedSet


@dataclass(frozen=True)
class Measure:
    """A measurement of the dense model, answered with an array.

    Attributes:
        name: `block-influence`, `relative-magnitude` or `taylor`, shape (blocks,); or `angular`,
            shape (blocks, blocks + 1): the distance of the states before block l and before block
            l + n at [l, n], NaN where there is no such block.
    """

    name: str


Plan: TypeAlias = Generator[Ask | ChosenSize | Measure, Any, RemovedSet]


class Search(Protocol):
    """An algorithm that chooses a removed set; derive from `Method` for all but `plan`."""

    @property
    def name(self) -> str:
        """By which it is asked for, with the parameters that are not the defaults."""

    @property
    def summary(self) -> str:
        """A line about it."""

    @property
    def grows(self) -> bool:
        """Whether its sets at all sizes up to `k` are nested and reported as `ChosenSize`."""

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """Start a search; `rng` is its only source of chance."""
