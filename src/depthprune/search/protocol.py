"""What a search is: something that asks for scores of removed sets and is told them.

A search is a generator. It yields an `Ask` and is sent the scores, in the order asked; it returns
the set it chose. One whose sets grow block by block also yields `Grown` for each size, and stops
there if it is told that no more is wanted. It sees losses and nothing of models, so that any of
them runs on any landscape, planted ones included.
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
    """

    blocks: int
    k: int
    free: tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """Removed sets to be scored.

    Attributes:
        sets: Sorted sets of free blocks, no two alike.
        keep: How many of the best are wanted; the rest need only be known to be worse.
    """

    sets: tuple[RemovedSet, ...]
    keep: int


@dataclass(frozen=True)
class Grown:
    """The chosen set at one size, on the way to `k`. The answer is True if that is enough."""

    removed: RemovedSet


Plan: TypeAlias = Generator[Ask | Grown, Any, RemovedSet]


class Search(Protocol):
    """An algorithm that chooses a removed set."""

    @property
    def name(self) -> str:
        """By which it is asked for."""

    @property
    def summary(self) -> str:
        """A line about it."""

    @property
    def grows(self) -> bool:
        """Whether its sets at all sizes up to `k` are nested and reported as `Grown`."""

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """Start a search; `rng` is its only source of chance."""
