"""The searches by name, and making one of what a user wrote.

Other packages add theirs through the entry-point group `depthprune.searches`: a callable that gives
a `Search`; the fields of a dataclass are its parameters.
"""

from __future__ import annotations

from collections.abc import Callable

from depthprune.parameters import build
from depthprune.plugins import Registry
from depthprune.search.angular import Angular
from depthprune.search.annealing import Annealing
from depthprune.search.bayesian import Bayesian
from depthprune.search.beam import Beam
from depthprune.search.block_influence import BlockInfluence
from depthprune.search.cbo import CBO
from depthprune.search.evolution import Evolution
from depthprune.search.exhaustive import Exhaustive
from depthprune.search.fast_block_select import FastBlockSelect
from depthprune.search.genetic import Genetic
from depthprune.search.greedy import Greedy
from depthprune.search.last_k import LastK
from depthprune.search.local_search import LocalSearch
from depthprune.search.one_shot import OneShot
from depthprune.search.protocol import Search, Space
from depthprune.search.random_sets import RandomSets
from depthprune.search.relative_magnitude import RelativeMagnitude
from depthprune.search.taylor import Taylor
from depthprune.search.window import Window

_OWN: tuple[Callable[..., Search], ...] = (
    OneShot,
    Greedy,
    Beam,
    Genetic,
    Bayesian,
    CBO,
    FastBlockSelect,
    Evolution,
    LocalSearch,
    Annealing,
    RandomSets,
    Window,
    LastK,
    BlockInfluence,
    Angular,
    RelativeMagnitude,
    Taylor,
    Exhaustive,
)

_PARTS = ("name", "summary", "grows", "plan")

SEARCHES: Registry[Callable[..., Search]] = Registry(
    "search",
    "depthprune.searches",
    {make.method: make for make in _OWN},  # type: ignore[attr-defined]
)


def make_search(text: str | Search) -> Search:
    """The search that a text names, such as `greedy` or `beam:width=8`.

    Args:
        text: A name and parameters; a search is handed on as it is.

    Raises:
        UsageError: If the name or a parameter is unknown, a value is wrong, or a plug-in gives no
            search.
    """
    if not isinstance(text, str):
        return text
    return build(SEARCHES, text, _PARTS)


def least_evaluations(search: Search, space: Space) -> int:
    """Evaluations that it takes to have a first set of size k; 1 where a search does not say.

    Raises:
        UsageError: If the space cannot be searched this way.
    """
    least = getattr(search, "least", None)
    return 1 if least is None else int(least(space))
