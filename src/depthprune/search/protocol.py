"""What a search is: something that asks for scores of removed sets and is told them.

A search is a generator. It yields an `Ask` and is sent the scores, in the order asked; it returns
the set it chose. One whose sets grow block by block also yields `Grown` for each size, and stops
there if it is told that no more is wanted. One that ranks blocks by what they do to the hidden
states yields `Measure` and is sent the measurement. It sees numbers and nothing of models, so that
any of them runs on any landscape, planted ones included.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

RemovedSet: TypeAlias = tuple[int, ...]


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
    """

    blocks: int
    k: int
    free: tuple[int, ...]
    windows: int = 1


@dataclass(frozen=True)
class Ask:
    """Removed sets to be scored.

    A set that was asked for before may be among them: it is answered from what is known, and paid
    for once.

    Attributes:
        sets: Sorted sets of free blocks, no two alike; `()` is the dense model.
        keep: How many of the best are wanted; the rest need only be known to be worse.
        windows: On how many windows, the first of a fixed random order; None for as many as it
            takes.
    """

    sets: tuple[RemovedSet, ...]
    keep: int
    windows: int | None = None


@dataclass(frozen=True)
class Grown:
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


Plan: TypeAlias = Generator[Ask | Grown | Measure, Any, RemovedSet]


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
        """Whether its sets at all sizes up to `k` are nested and reported as `Grown`."""

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """Start a search; `rng` is its only source of chance."""
